"""Do times run on, and were image and scan taken together?"""

from collections.abc import Iterator
from statistics import median_low
from typing import Any

import numpy as np

from simipu_core.checking.report import Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import SoundFrame, Survey, streams

_GAP = 3.0
"""A gap is this many times the usual interval of its sequence."""
_FEWEST_FRAMES = 3
_INTERVALS = (0.002, 60.0)
"""Seconds between a camera's frames."""
_QUARTER_MS = 900_000
"""Time zones differ by quarters of an hour."""
_ZONE_OFF_MS = 2000
"""By how much more or less clocks in two time zones may differ."""
_RECENT = (631_152_000_000_000, 2_524_608_000_000_000)
"""The years 1990 to 2050, microseconds."""


def check(found: Survey) -> Iterator[Finding]:
    """Order, gaps and synchronisation."""
    timed = [facts for facts in found.sound if facts.row["timestamp_us"] is not None]
    if not timed:
        yield ok("timestamps", "frames have no times, so order and synchronisation cannot be told")
        return
    if len(timed) < len(found.sound):
        missing = [facts.sample_id for facts in found.sound if facts.row["timestamp_us"] is None]
        severity = Severity.WARNING
        what = f"{len(missing)} frames have no time, the others have"
        yield problem("timestamps", severity, what, missing, "Complete the timestamps, or remove them all.")
    yield from _unit(found, timed)
    yield from _order(found)
    yield from _synchronisation(found, timed)


def sync_errors_ms(found: Survey) -> list[float]:
    """Time of the scan minus time of the image where both are known, milliseconds."""
    return [error for facts in found.sound if (error := _error_ms(facts)) is not None]


def statistics(found: Survey) -> dict[str, Any]:
    """Quantiles of the synchronisation error, milliseconds."""
    errors = np.abs(sync_errors_ms(found))
    if not errors.size:
        return {}
    return {
        "sync_error_ms": {f"p{share}": round(float(np.percentile(errors, share)), 3) for share in (50, 90, 99, 100)}
    }


def _unit(found: Survey, timed: list[SoundFrame]) -> Iterator[Finding]:
    """Times that lie in no year of recordings, or follow each other as no camera's do, but would in another unit."""
    middle = float(np.median([facts.row["timestamp_us"] for facts in timed]))
    steps = [
        step
        for frames in streams(found.sound)
        for step in np.diff([facts.row["timestamp_us"] for facts in frames if facts.row["timestamp_us"] is not None])
        if step > 0
    ]
    usual = float(np.median(steps)) / 1e6 if len(steps) >= _FEWEST_FRAMES else None
    mend = "Check the unit of the times (ns, us, ms or s), in own logs time_unit."
    if usual is None or not _INTERVALS[0] <= usual <= _INTERVALS[1]:
        for factor in (1000, 1_000_000, 1_000_000_000, 1 / 1000, 1 / 1_000_000):
            if _is_recent(middle * factor) and not _is_recent(middle):
                what = (
                    f"times are of {_year(middle)}; {factor:g} times as large they would be of {_year(middle * factor)}"
                )
                yield problem("time unit", Severity.FAULT, what, [], mend)
                return
    if usual is not None and not _INTERVALS[0] <= usual <= _INTERVALS[1]:
        what = f"frames follow each other every {usual:.3g} s, as no camera's do"
        yield problem("time unit", Severity.FAULT if usual < _INTERVALS[0] else Severity.WARNING, what, [], mend)


def _is_recent(time_us: float) -> bool:
    return _RECENT[0] <= time_us <= _RECENT[1]


def _year(time_us: float) -> str:
    return f"the year {1970 + int(time_us // 31_556_952e6)}" if abs(time_us) < 1e18 else "no year"


def _order(found: Survey) -> Iterator[Finding]:
    backwards, twice, gaps = [], [], []
    for frames in streams(found.sound):
        timed = [facts for facts in frames if facts.row["timestamp_us"] is not None]
        steps = np.diff([facts.row["timestamp_us"] for facts in timed])
        usual = float(np.median(steps)) if len(steps) >= _FEWEST_FRAMES else np.inf
        for facts, step in zip(timed[1:], steps.tolist(), strict=True):
            if step < 0:
                backwards.append(facts.sample_id)
            elif step == 0:
                twice.append(facts.sample_id)
            elif usual > 0 and step > _GAP * usual:
                gaps.append(f"{facts.sample_id} (after {step / 1e6:.2f} s, usual {usual / 1e6:.2f} s)")
    mend = "Check the timestamps' file: line n belongs to frame n; or was the clock set back (midnight, summer time)?"
    if backwards:
        severity = by_share(len(backwards), len(found.sound), found.source.max_broken_share)
        what = f"time runs backwards at {len(backwards)} frames"
        yield problem("timestamps", severity, what, backwards, mend)
    if twice:
        severity = by_share(len(twice), len(found.sound), found.source.max_broken_share)
        yield problem("timestamps", severity, f"{len(twice)} frames have the time of the frame before", twice, mend)
    if gaps:
        what = f"{len(gaps)} gaps of more than {_GAP:g} usual intervals"
        yield problem("timestamps", Severity.WARNING, what, gaps, "Harmless unless frames were lost by mistake.")
    if not (backwards or twice or gaps):
        yield ok("timestamps", "times run on in every sequence, without gaps")


def _synchronisation(found: Survey, timed: list[SoundFrame]) -> Iterator[Finding]:
    errors = sync_errors_ms(found)
    if not errors:
        yield ok("synchronisation", "scans have no times of their own")
        return
    quantiles = statistics(found)["sync_error_ms"]
    what = (
        f"image and scan are {quantiles['p50']:.1f} ms apart (median; 99 %: {quantiles['p99']:.1f} ms, "
        f"most: {quantiles['p100']:.1f} ms)"
    )
    limit = found.pair.max_sync_ms
    late = [facts.sample_id for facts in timed if abs(_error_ms(facts) or 0) > limit]
    if not late:
        yield ok("synchronisation", what)
        return
    severity = by_share(len(late), len(errors), found.pair.max_broken_share)
    mend = "Check the clocks of camera and scanner; pair drops these frames."
    quarters, rest = divmod(median_low(each for each in map(abs, errors) if each > limit) + _ZONE_OFF_MS, _QUARTER_MS)
    if quarters and rest < 2 * _ZONE_OFF_MS:
        mend = f"{mend} They differ by {quarters / 4:g} h: is one in another time zone, or in summer time?"
    yield problem("synchronisation", severity, f"{what}; {len(late)} above pair.max_sync_ms={limit:g}", late, mend)


def _error_ms(facts: SoundFrame) -> float | None:
    image, scan = facts.row["timestamp_us"], facts.row["points_timestamp_us"]
    return None if image is None or scan is None else (scan - image) / 1000
