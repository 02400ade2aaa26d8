"""Are scans in metres, and is their reflectance in its unit?"""

from collections.abc import Iterator

import numpy as np

from simipu_core.checking.report import Finding, Severity, ok, problem
from simipu_core.checking.survey import Survey

_DARK = 0.02
"""Reflectance of the brightest thousandth of the points that no scene has."""
_REACH = (5.0, 400.0)
"""Distance of the farthest hundredth of a scan's points, metres."""


def check(found: Survey) -> Iterator[Finding]:
    """Units of distance and of reflectance."""
    scanned = [(facts, facts.farthest, facts.reflectance or 0.0) for facts in found.facts if facts.farthest is not None]
    if not scanned:
        return
    allowed, total = found.source.max_broken_share, len(found.facts)
    reach = float(np.median([farthest for _, farthest, _ in scanned]))
    odd = [f"{facts.sample_id} ({far:.3g} m)" for facts, far, _ in scanned if not _REACH[0] <= far <= _REACH[1]]
    if odd:
        what = f"the farthest hundredth of the points of {len(odd)} scans is as near or far as no vehicle's LiDAR sees"
        mend = "Scans must be in metres: look for millimetres, centimetres, feet or kilometres."
        yield problem("scan range", found.by_share(len(odd), total, allowed), what, odd, mend)
    else:
        what = f"99 % of the points are nearer than {reach:.3g} m"
        yield ok("scan range", f"{what}; a scale that is wrong by some per cent cannot be told from scans alone")
    brightest = float(np.median([bright for *_, bright in scanned]))
    dark = [f"{facts.sample_id} ({bright:.2g})" for facts, _, bright in scanned if 0 < bright < _DARK]
    if dark:
        factor = 255 if brightest > 1 / 1000 or brightest == 0 else 65535
        what = f"in {len(dark)} scans the brightest points hardly reflect, where 1 is a perfect reflector"
        mend = (
            "Divide by the largest value of the sensor, once: in own logs reflectance_scale is perhaps "
            f"{factor} times too large."
        )
        yield problem("reflectance", found.by_share(len(dark), total, allowed), what, dark, mend)
    elif brightest == 0:
        mend = "Fine where the sensor measures none; otherwise look for its column."
        yield problem("reflectance", Severity.WARNING, "scans have no reflectance: all of it is 0", [], mend)
    else:
        yield ok("reflectance", f"the brightest points have {brightest:.2g}, where 1 is a perfect reflector")
