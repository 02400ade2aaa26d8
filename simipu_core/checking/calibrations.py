"""Do calibrations belong to their frames?"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from simipu_core.checking.alignment import Alignment
from simipu_core.checking.report import Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import FrameFacts, Survey
from simipu_core.data.sources import Source, class_of

_UPRIGHT = 0.7
"""Least cosine between the camera's down and the scanner's."""
_GAIN, _SIGMAS, _SEQUENCE_SIGMAS = 0.015, 3.0, 4.0
"""A change is believed where it raises the score so much on average, and so many standard errors above zero."""
_FEWEST_FRAMES = 4
_ABOVE_CHANCE = 0.02
_POOR = 0.05
"""Least score above chance of a frame that is not named; KITTI's own frames reach 0.08 to 0.3."""
_TURNED, _MOVED = 1.5, 0.3
"""Degrees and metres by which one calibration differs from the median of its sequence."""


def check(found: Survey) -> Iterator[Finding]:
    """Share of points in the image, uprightness, odd ones out, alignment of edges."""
    with_scan = [facts for facts in found.facts if facts.row["points"] is not None]
    if not with_scan:
        yield ok("calibration", "no frame has a scan, so there is nothing to align")
        return
    yield _shares(found, with_scan)
    tilted = [facts.sample_id for facts in with_scan if _transform(facts)[1, 2] > -_UPRIGHT]
    yield _upright(tilted)
    if not found.is_synthetic:
        yield from _dates(found)
    yield from _odd_ones(found)
    if 2 * len(tilted) < len(with_scan):  # else no small change could mend it
        yield from _alignment(found)


def _shares(found: Survey, with_scan: Sequence[FrameFacts]) -> Finding:
    few = [facts.sample_id for facts in with_scan if facts.num_in_image < found.pair.min_points]
    shares = np.array([facts.share_in_image for facts in with_scan])
    source = Source if found.is_synthetic else class_of(with_scan[0].row["source"])
    low, high = source.usual_share
    median, ahead = float(np.median(shares)), float(np.median([facts.share_ahead for facts in with_scan]))
    what = f"{100 * median:.1f} % of the points lie in the image, {100 * ahead:.0f} % in front of the camera (medians)"
    if few:
        severity = by_share(len(few), len(with_scan), found.pair.max_broken_share)
        what += f"; {len(few)} frames have fewer than pair.min_points={found.pair.min_points}"
        return problem("points in image", severity, what, few, "Look at these scans and calibrations; pair drops them.")
    if not low <= median <= high:
        what += f"; usual are {100 * low:.0f}–{100 * high:.0f} %"
        return problem(
            "points in image", Severity.FAULT, what, [], "Check that scans and calibration are this camera's."
        )
    return ok("points in image", what)


def _upright(tilted: list[str]) -> Finding:
    if not tilted:
        return ok("orientation", "cameras stand upright over the scanner's ground")
    what = f"{len(tilted)} calibrations turn the scanner's up away from the camera's up"
    mend = "Check for a transposed or inverted matrix, or another order of axes."
    return problem("orientation", Severity.FAULT, what, tilted, mend)


def _dates(found: Survey) -> Iterator[Finding]:
    """Whether focal lengths are those of the date that the image's size tells."""
    wrong = []
    known = 0
    for facts in found.facts:
        dates, size = class_of(facts.row["source"]).dates, (facts.row["height"], facts.row["width"])
        if size not in dates or facts.row["points"] is None:
            continue
        known += 1
        date, focal = dates[size]
        if abs(facts.row["intrinsics"][0] - focal) > 1:
            wrong.append(f"{facts.sample_id} (image of {date}, focal length {facts.row['intrinsics'][0]:.1f})")
    if wrong:
        what = f"{len(wrong)} images have the size of one recording date and the focal length of another"
        mend = "Put the calibration of each date to its frames."
        yield problem("calibration date", Severity.FAULT, what, wrong, mend)
    elif known:
        yield ok("calibration date", "image sizes and focal lengths belong to the same recording dates")


def _odd_ones(found: Survey) -> Iterator[Finding]:
    """Frames whose calibration differs from that of the other frames of their sequence."""
    odd = []
    for frames in found.streams():
        posed = [facts for facts in frames if facts.row["points"] is not None]
        if len(posed) < _FEWEST_FRAMES - 1:
            continue
        transforms = np.array([_transform(facts)[:3] for facts in posed])
        middle = np.median(transforms, axis=0)
        moved = np.linalg.norm(transforms[:, :, 3] - middle[:, 3], axis=1)
        turned = np.rad2deg(np.abs(transforms[:, :, :3] - middle[:, :3]).max(axis=(1, 2)))
        focal = np.array([facts.row["intrinsics"][0] for facts in posed])
        is_odd = (moved > max(_MOVED, 6 * float(np.median(moved)))) | (
            turned > max(_TURNED, 6 * float(np.median(turned)))
        )
        is_odd |= np.abs(focal / np.median(focal) - 1) > 0.05
        odd += [facts.sample_id for facts, each in zip(posed, is_odd, strict=True) if each]
    if odd:
        what = f"{len(odd)} calibrations differ from those of the other frames of their sequence"
        severity = by_share(len(odd), len(found.facts), found.source.max_broken_share)
        yield problem("odd calibration", severity, what, odd, "Check that these calibrations are their own camera's.")


def _alignment(found: Survey) -> Iterator[Finding]:
    tried = {
        name: [facts.alignment for facts in frames if facts.alignment] for name, frames in found.sequences().items()
    }
    everything = [alignment for each in tried.values() for alignment in each]
    if len(everything) < _FEWEST_FRAMES:
        yield ok("edge alignment", f"only {len(everything)} frames show enough edges, too few to tell")
        return
    unchanged, chance = _mean(everything, "unchanged"), _mean(everything, "chance")
    score = f"score {unchanged:.2f}, by chance {chance:.2f}, {len(everything)} frames"
    mend = "Look at the overlays; check that calibration, camera and scans belong together."
    if fault := better_change(everything, _SIGMAS):
        what = f"LiDAR edges meet image edges better with {fault} ({score})"
        yield problem("edge alignment", Severity.FAULT, what, [], mend)
        return
    if unchanged < chance + _ABOVE_CHANCE:
        what = f"LiDAR edges meet image edges hardly more often than by chance ({score})"
        yield problem("edge alignment", Severity.WARNING, what, [], mend)
        return
    wrong = {
        name: fault
        for name, each in tried.items()
        if len(each) >= _FEWEST_FRAMES and (fault := better_change(each, _SEQUENCE_SIGMAS))
    }
    if wrong and len(tried) > 1:
        (kind, _), *_ = Counter(wrong.values()).most_common(1)
        what = f"in {len(wrong)} sequences LiDAR edges meet image edges better with another calibration, e.g. {kind}"
        yield problem("edge alignment", Severity.FAULT, what, [f"{name}: {each}" for name, each in wrong.items()], mend)
        return
    poor = [
        facts.sample_id
        for facts in found.facts
        if facts.alignment and facts.alignment.unchanged < facts.alignment.chance + _POOR
    ]
    if poor:
        what = f"{len(poor)} of {len(everything)} frames tried hardly align, the others do ({score})"
        mend = "Look whether scan and image are of the same moment."
        yield problem("edge alignment", Severity.WARNING, what, poor, mend)
        return
    yield ok("edge alignment", f"no change of the calibration puts LiDAR edges closer to image edges ({score})")


def better_change(alignments: Sequence[Alignment], sigmas: float) -> str | None:
    """The change of the calibration that raises the score most, if one does so significantly.

    Args:
        alignments: of frames that share a fault, if they have one.
        sigmas: least mean gain in standard errors.
    """
    gains: dict[str, list[float]] = defaultdict(list)
    for alignment in alignments:
        for name, score in alignment.changed.items():
            gains[name].append(score - alignment.unchanged)
    believed = {}
    for name, values in gains.items():
        if len(values) < max(_FEWEST_FRAMES, len(alignments) / 2):
            continue
        mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
        if mean >= _GAIN and mean >= sigmas * error:
            believed[name] = mean
    return max(believed, key=lambda name: believed[name], default=None)


def _mean(alignments: Sequence[Alignment], name: str) -> float:
    return float(np.mean([getattr(alignment, name) for alignment in alignments]))


def _transform(facts: FrameFacts) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.reshape(np.asarray(facts.row["lidar_to_camera"], np.float64), (4, 4))
