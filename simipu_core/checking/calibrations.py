"""Do calibrations belong to their frames?"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from simipu_core.checking.alignment import ODD_TURN, Alignment, gross_changes
from simipu_core.checking.report import Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import FrameFacts, SoundFrame, Survey, streams
from simipu_core.data.sources import Source, class_of

_UPRIGHT = 0.7
"""Least cosine between the camera's down and the scanner's."""
_GAIN, _LEVEL, _PART_LEVEL, _WRONG_LEVEL, _HINT_LEVEL = 0.015, 5e-3, 1e-4, 1e-2, 3e-2
"""A change is believed where it raises the score so much on average, with so small a probability by chance."""
_RIVAL_LEVEL, _MOST_RIVALS = 0.01, 3
"""Another change may be as good unless the best one is better with so small a probability by chance."""
_FEWEST_FRAMES = 3
_SPREAD = 0.005
"""Least standard deviation of a gain between frames."""
_TOLD, _MANY = 3.0, 8
"""A calibration is told right where it stands so many standard errors above wrong ones; frames that tell one wrong."""
_LOOK = "Look at the overlays; check that calibration, camera and scans belong together."
_POOR = 0.05
"""Least score above chance of a frame that is not named; KITTI's own frames reach 0.08 to 0.3."""
_CENTRAL, _FAR_OFF, _RESIZED = 0.15, 0.35, 1.3
"""Distance of principal points from the centre, share of the image's size: usual, and odd; and how much images are
resized at least."""
_TURNED, _MOVED = 1.5, 0.3
"""Degrees and metres by which one calibration differs from the median of its sequence."""


def check(found: Survey) -> Iterator[Finding]:
    """Share of points in the image, uprightness, odd ones out, alignment of edges."""
    with_scan = [facts for facts in found.sound if facts.row["points"] is not None]
    if not with_scan:
        yield ok("calibration", "no frame has a scan, so there is nothing to align")
        return
    if measured := [facts for facts in found.facts if facts.row["points"] is not None]:
        yield _shares(found, measured)
    tilted = [facts for facts in with_scan if _transform(facts)[1, 2] > -_UPRIGHT]
    yield _upright(tilted)
    yield from _centres(found)
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
        severity = found.by_share(len(few), len(with_scan), found.pair.max_broken_share)
        what += f"; {len(few)} frames have fewer than pair.min_points={found.pair.min_points}"
        return problem("points in image", severity, what, few, "Look at these scans and calibrations; pair drops them.")
    if not low <= median <= high:
        what += f"; usual are {100 * low:.0f}–{100 * high:.0f} %"
        return problem(
            "points in image", Severity.FAULT, what, [], "Check that scans and calibration are this camera's."
        )
    return ok("points in image", what)


def _upright(tilted: Sequence[SoundFrame]) -> Finding:
    if not tilted:
        return ok("orientation", "cameras stand upright over the scanner's ground")
    what = f"{len(tilted)} calibrations turn the scanner's up away from the camera's up"
    mend = "Check for a transposed or inverted matrix, the order of a quaternion, or another order of axes."
    if all(_transform(facts)[2, 1] < -_UPRIGHT for facts in tilted):  # what is inverted has its rows for columns
        mend = "They look inverted: they would stand upright as camera to scanner."
    return problem("orientation", Severity.FAULT, what, [facts.sample_id for facts in tilted], mend)


def _centres(found: Survey) -> Iterator[Finding]:
    """Whether principal points are those of images of this size."""
    wrong: dict[str, list[str]] = defaultdict(list)
    for facts in found.sound:
        if guess := misplaced_centre(facts.row["intrinsics"], (facts.row["height"], facts.row["width"])):
            wrong[guess].append(facts.sample_id)
    for guess, names in wrong.items():
        severity = by_share(len(names), len(found.sound), found.source.max_broken_share)
        mend = "Give the intrinsics of the images as they are stored: scaled, cropped and rectified like them."
        yield problem("image centre", severity, f"of {len(names)} frames {guess}", names, mend)


def misplaced_centre(intrinsics: Sequence[float], size: tuple[int, int]) -> str | None:
    """What is likely wrong with intrinsics (9,) whose principal point is not near the centre of an image, in words.

    Args:
        intrinsics: row by row.
        size: height and width of the image, pixels.
    """
    (height, width), cx, cy = size, intrinsics[2], intrinsics[5]
    across, down = cx / width, cy / height
    if _is_central(across) and _is_central(down):
        return None
    where = f"the principal point {cx:.0f}, {cy:.0f} in images of {height}×{width}"
    if _is_central(cy / width) and _is_central(cx / height):
        return f"cx and cy are exchanged: {where}"
    times = across + down
    if abs(across - down) < _CENTRAL * times and not 1 / _RESIZED < times < _RESIZED:
        return f"the intrinsics are those of images {times:.2g} times as large: {where}"
    if max(abs(across - 0.5), abs(down - 0.5)) > _FAR_OFF:
        return f"the principal point lies far from the centre: {where}"
    return None


def _is_central(share: float) -> bool:
    return abs(share - 0.5) < _CENTRAL


def _dates(found: Survey) -> Iterator[Finding]:
    """Whether focal lengths are those of the date that the image's size tells."""
    wrong = []
    known = 0
    for facts in found.sound:
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
    for frames in streams(found.sound):
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
        severity = by_share(len(odd), len(found.sound), found.source.max_broken_share)
        yield problem("odd calibration", severity, what, odd, "Check that these calibrations are their own camera's.")


def _alignment(found: Survey) -> Iterator[Finding]:
    distinct = {(facts.row["image_sha256"], facts.row["points_sha256"]): facts for facts in found.facts}
    frames = [(facts, facts.alignment) for facts in distinct.values() if facts.alignment]
    everything = [alignment for _, alignment in frames]
    if not everything:
        what = "whether the calibration is right cannot be told: no frame that was tried shows enough edges"
        yield problem("edge alignment", Severity.WARNING, what, [], _LOOK)
        return
    standing = confidence(everything)
    score = f"score {_mean(everything, 'unchanged'):.2f}, by chance {_mean(everything, 'chance'):.2f}"
    number = f"{len(everything)} frame{'s' * (len(everything) != 1)}"
    score += f", {number}, confidence {standing:.1f}" if standing is not None else f", {number}"
    fault = better_change(everything, _LEVEL)
    if fault is None and standing is not None and standing < _TOLD / 3 and len(everything) >= _MANY:
        gross = [replace(each, changed=_gross(each)) for each in everything]
        fault = better_change(gross, _WRONG_LEVEL)  # it is wrong anyway: which of the usual mistakes is it?
    if fault:
        what = f"LiDAR edges meet image edges better with {fault} ({score})"
        yield problem("edge alignment", Severity.FAULT, what, [], _LOOK)
        return
    wrong = {
        name: fault
        for name, each in _of_one_calibration(frames).items()
        if len(each) < len(everything) and (fault := better_change(each, _PART_LEVEL))
    }
    if wrong:
        (kind, _), *_ = Counter(wrong.values()).most_common(1)
        what = f"of {len(wrong)} cameras LiDAR edges meet image edges better with another calibration, e.g. {kind}"
        yield problem(
            "edge alignment", Severity.FAULT, what, [f"{name}: {each}" for name, each in wrong.items()], _LOOK
        )
        return
    if standing is None or standing < _TOLD:
        what = f"whether the calibration is right cannot be told from {number} ({score})"
        if standing is not None and standing < _TOLD / 3 and len(everything) >= _MANY:
            what = f"LiDAR edges meet image edges no better than with calibrations that are surely wrong ({score})"
        yield problem("edge alignment", Severity.WARNING, what, [], _LOOK)
        return
    if hint := better_change(everything, _HINT_LEVEL):
        what = f"LiDAR edges may meet image edges better with {hint}, which {number} are too few to tell ({score})"
        yield problem("edge alignment", Severity.WARNING, what, [], _LOOK)
        return
    poor = [facts.sample_id for facts, each in frames if each.unchanged < each.chance + _POOR]
    if poor and 2 * len(poor) < len(frames):
        what = f"{len(poor)} of {len(everything)} frames tried hardly align, the others do ({score})"
        mend = "Look at their overlays: is little to be seen, or are scan and image not of the same moment?"
        yield problem("edge alignment", Severity.WARNING, what, poor, mend)
        return
    yield ok("edge alignment", f"no change of the calibration puts LiDAR edges closer to image edges ({score})")


def _gross(alignment: Alignment) -> dict[str, float]:
    return {name: score for name, score in alignment.changed.items() if name in gross_changes()}


def _of_one_calibration(frames: Sequence[tuple[FrameFacts, Alignment]]) -> dict[str, list[Alignment]]:
    """Alignments of each sequence's frames that share their calibration, by the first of them."""
    first: dict[tuple[object, ...], str] = {}
    found: dict[str, list[Alignment]] = defaultdict(list)
    for facts, alignment in frames:
        calibration = np.round((*facts.row["intrinsics"], *(facts.row["lidar_to_camera"] or ())), 1)
        name = first.setdefault((facts.sequence, *calibration.tolist()), facts.sample_id)
        found[name].append(alignment)
    return found


def confidence(alignments: Sequence[Alignment]) -> float | None:
    """How far frames of one calibration stand out together from calibrations that are surely wrong, in standard errors.

    Near 0 for a wrong calibration; None where no frame can tell.
    """
    standing = [alignment.standing for alignment in alignments if alignment.standing is not None]
    return float(np.mean(standing) * np.sqrt(len(standing))) if standing else None


def better_change(alignments: Sequence[Alignment], level: float) -> str | None:
    """The change of the calibration that raises the score most, if one does so significantly, in words.

    Changes of other kinds that may be as good are named, too: which of them is right cannot be told.

    Args:
        alignments: of frames that share a fault, if they have one.
        level: probability of so high a mean gain where there is none (Student's t).
    """
    gains = _gains(alignments)
    means = {name: float(np.nanmean(values)) for name, values in gains.items()}
    believed = [name for name, values in gains.items() if means[name] >= _GAIN and _is_positive(values, level)]
    if not believed:
        return None
    best_of: dict[str, str] = {}
    for name in sorted(means, key=means.__getitem__, reverse=True):
        best_of.setdefault(_kind(name), name)
    best = best_of.pop(_kind(max(believed, key=means.__getitem__)))
    rivals = [
        name
        for name in best_of.values()
        if means[name] >= _GAIN and not _is_positive(gains[best] - gains[name], _RIVAL_LEVEL)
    ]
    told = "; or with ".join(rivals[:_MOST_RIVALS]) + "; or with others" * (len(rivals) > _MOST_RIVALS)
    return f"{best}, or about as well with {told}" if rivals else best


def _gains(alignments: Sequence[Alignment]) -> dict[str, NDArray[np.float64]]:
    """By change, what each frame gains; NaN where it cannot tell. Changes that few frames can tell are left out."""
    names = dict.fromkeys(name for alignment in alignments for name in alignment.changed)
    gains = {
        name: np.array([each.changed.get(name, np.nan) - each.unchanged for each in alignments])
        for name in names
        if not name.startswith(ODD_TURN)  # tells how wrong ones score; nobody's mistake
    }
    fewest = max(_FEWEST_FRAMES, len(alignments) / 2)
    return {name: values for name, values in gains.items() if np.isfinite(values).sum() >= fewest}


def _is_positive(values: NDArray[np.float64], level: float) -> bool:
    """Whether the mean of what is known is above 0, with this probability that it is so by chance."""
    known = values[np.isfinite(values)]
    if len(known) < _FEWEST_FRAMES:
        return False
    error = max(float(np.std(known, ddof=1)), _SPREAD) / np.sqrt(len(known))
    return bool(known.mean() >= stats.t.isf(level, len(known) - 1) * error)


def _kind(change: str) -> str:
    """What is changed, without how much."""
    return re.split(r" [+-]\d", change, maxsplit=1)[0]


def _mean(alignments: Sequence[Alignment], name: str) -> float:
    return float(np.mean([getattr(alignment, name) for alignment in alignments]))


def _transform(facts: SoundFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.reshape(np.asarray(facts.row["lidar_to_camera"], np.float64), (4, 4))
