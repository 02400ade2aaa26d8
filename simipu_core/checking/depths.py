"""Are depth maps in metres, of the right kind, and of their own frame?"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simipu_core.checking.report import Finding, Severity, ok, problem
from simipu_core.checking.survey import DepthFacts, FrameFacts, Survey
from simipu_core.data.sources import class_of

Measured = list[tuple[FrameFacts, DepthFacts]]


_SCALES = {
    1000 / 256: "written in steps of 1/1000 m and read as 1/256 m",
    256 / 1000: "written in steps of 1/256 m and read as 1/1000 m",
    1000.0: "millimetres read as metres",
    1 / 1000: "metres read as millimetres",
}
_FEWEST_COMMON = 50
_RATIO = 1.07
_UNUSUAL = 2.5
_AGREEMENT = 0.5
_FEW_VALID = 0.01
_MUCH_CAPPED = 0.05


def check(found: Survey) -> Iterator[Finding]:
    """Scale and range, share of valid pixels, raw or improved, agreement with the scans."""
    measured = [(facts, facts.depth) for facts in found.facts if facts.depth]
    if not measured:
        yield ok("depth", "no frame has a depth map")
        return
    yield _scale(found, measured)
    yield from _unusual(measured)
    yield _density(found, measured)
    yield from _codes(measured)
    yield from _agreement(found, measured)


def statistics(found: Survey) -> dict[str, Any]:
    """Medians over the depth maps."""
    depths = [facts.depth for facts in found.facts if facts.depth]
    names = ("valid_share", "median", "largest", "ratio", "agreement", "copied")
    medians = {name: round(float(np.median([getattr(depth, name) for depth in depths])), 4) for name in names if depths}
    return {"depth": medians} if depths else {}


def _scale(found: Survey, measured: Measured) -> Finding:
    wrong = []
    guesses = []
    for facts, depth in measured:
        plausible = class_of(facts.row["source"]).plausible_depth
        if _has_scan(depth) and not 1 / _RATIO < depth.ratio < _RATIO:
            wrong.append(f"{facts.sample_id} ({depth.ratio:.3g} times the scan's depth)")
            guesses.append(depth.ratio)
        elif plausible and not (
            plausible.median[0] <= depth.median <= plausible.median[1] and depth.largest <= plausible.largest
        ):
            wrong.append(f"{facts.sample_id} (median {depth.median:.2g} m, 99 %: {depth.largest:.3g} m)")
            guesses.append(depth.median / np.sqrt(plausible.median[0] * plausible.median[1]))
    medians = f"median {_median(measured, 'median'):.1f} m, 99 % below {_median(measured, 'largest'):.1f} m"
    if not wrong:
        return ok("depth scale", f"depths are plausible in metres ({medians})")
    what = f"{len(wrong)} of {len(measured)} depth maps are implausible in metres ({medians})"
    factor = float(np.median(guesses))
    guess = min(_SCALES, key=lambda scale: abs(np.log(scale / factor)))
    mend = "Check that these maps are in the layout's own unit"
    if abs(np.log(guess / factor)) < np.log(1.6):
        mend += f"; it looks like depth {_SCALES[guess]}"
    return problem(
        "depth scale", found.by_share(len(wrong), len(measured), found.source.max_broken_share), what, wrong, f"{mend}."
    )


def _unusual(measured: Measured) -> Iterator[Finding]:
    """Maps that are as a whole much nearer or farther than the others, where no scan can tell why."""
    middle, far = _median(measured, "median"), _median(measured, "largest")
    odd = [
        f"{facts.sample_id} (median {depth.median:.2g} m)"
        for facts, depth in measured
        if not _has_scan(depth)
        and (
            max(depth.median / middle, depth.largest / far) < 1 / _UNUSUAL
            or min(depth.median / middle, depth.largest / far) > _UNUSUAL
        )
    ]
    if odd:
        what = f"{len(odd)} depth maps are more than {_UNUSUAL:g} times nearer or farther than the others"
        yield problem("unusual depth", Severity.WARNING, what, odd, "Look whether these maps have another scale.")


def _density(found: Survey, measured: Measured) -> Finding:
    valid = _median(measured, "valid_share")
    what = f"{100 * valid:.0f} % of the pixels have a depth (median)"
    few = [facts.sample_id for facts, depth in measured if depth.valid_share < _FEW_VALID]
    if few:
        severity = found.by_share(len(few), len(measured), found.source.max_broken_share)
        return problem(
            "depth density", severity, f"{what}; {len(few)} maps hardly have any", few, "Look at these maps."
        )
    copied = np.mean([depth.copied > 0.8 for _, depth in measured])
    is_sparse = not found.is_synthetic and valid < class_of(measured[0][0].row["source"]).least_valid_share
    if copied > 0.5 or is_sparse:
        what += "; these maps look like single raw scans, not like the improved ground truth of several scans"
        mend = "Take proj_depth/groundtruth, not velodyne_raw, or say so with pair.depth_from=projected_lidar."
        return problem("depth density", Severity.WARNING, what, [], mend)
    if valid > 0.999:
        what += "; holes were filled in"
    return ok("depth density", what)


def _codes(measured: Measured) -> Iterator[Finding]:
    """Maps in which many pixels hold one and the same largest depth."""
    capped = [
        f"{facts.sample_id} ({100 * depth.capped:.0f} % of its depths)"
        for facts, depth in measured
        if depth.capped > _MUCH_CAPPED
    ]
    if capped:
        what = f"{len(capped)} depth maps hold their largest depth at many pixels: a code for sky, or a cap"
        mend = "Write 0 where nothing was measured, or name the code in invalid_depths of own logs; 65535 is known."
        yield problem("depth codes", Severity.WARNING, what, capped, mend)


def _agreement(found: Survey, measured: Measured) -> Iterator[Finding]:
    compared = [(facts, depth) for facts, depth in measured if _has_scan(depth)]
    if not compared:
        yield ok("depth and scan", "no depth map can be compared with a scan")
        return
    apart = [
        f"{facts.sample_id} ({100 * depth.agreement:.0f} % agree)"
        for facts, depth in compared
        if depth.agreement < _AGREEMENT and 1 / _RATIO < depth.ratio < _RATIO
    ]
    what = f"depth maps agree with projected scans at {100 * _median(compared, 'agreement'):.0f} % of the common pixels"
    if not apart:
        yield ok("depth and scan", what)
        return
    severity = found.by_share(len(apart), len(compared), found.source.max_broken_share)
    mend = "Check that depth map, scan and calibration are of the same frame."
    yield problem("depth and scan", severity, f"{what} (median); {len(apart)} maps do not", apart, mend)


def _has_scan(depth: DepthFacts) -> bool:
    return depth.num_common >= _FEWEST_COMMON


def _median(measured: Sequence[tuple[FrameFacts, DepthFacts]], name: str) -> float:
    return float(np.median([getattr(depth, name) for _, depth in measured]))
