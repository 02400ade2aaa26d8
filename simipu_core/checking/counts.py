"""Are all frames there? Broken frames, and numbers of frames against the official ones."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median_low

from simipu_core.checking.report import SHOWN, Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import Survey
from simipu_core.data.frames import by_cause

_NUMBER = re.compile(r"\d+$")
_LONGEST_NUMBER = 10
"""Digits of a frame number; longer ones are times."""
_JITTER = 0.25
"""Share of the usual interval by which times of regular frames may differ from it."""


def check(found: Survey) -> Iterator[Finding]:
    """Broken frames; complete or partial; holes in the numbering, frames that lack what the others have."""
    yield _broken(found)
    yield from _holes(found)
    yield from _without_scan(found)
    sequences = len({frame.sequence for frame, _ in found.listed})
    splits_here = ", ".join(f"{number:,} {split}" for split, number in Counter(s for _, s in found.listed).items())
    counted = f"{found.total:,} frames in {sequences:,} sequence{'s' * (sequences != 1)} ({splits_here})"
    if found.is_synthetic:
        yield ok("count", f"{counted}; made by `simipu synthesize`, so there is no official number")
        return
    officials = found.source.official([frame for frame, _ in found.listed], found.root)
    if not officials:
        yield ok("count", f"{counted}; no official number is known for this kind")
    for official in officials:
        here = official.here
        if here == official.number:
            yield ok("count", f"complete: all {here:,} {official.what}")
        elif here == 0:
            yield ok("count", f"none of the {official.number:,} {official.what}")
        elif here > official.number:
            what = f"{here:,} {official.what}, more than the official {official.number:,}"
            yield problem("count", Severity.WARNING, what, [], "Look for copies or for another release in the folder.")
        else:
            what = f"partial: {here:,} of {official.number:,} {official.what}"
            yield problem("count", Severity.WARNING, what, [], "Download the rest if results are to be compared.")


def _broken(found: Survey) -> Finding:
    if not found.broken:
        return ok("broken frames", "every frame is whole")
    number, causes = len(found.broken), by_cause(found.broken, partial(below, found.root))
    severity = by_share(number, found.total, found.source.max_broken_share)
    mend = "Mend or remove these files; ingest leaves them out."
    if severity is Severity.FAULT:
        mend = f"Mend or remove these files; ingest stops above a share of {found.source.max_broken_share:g}."
    what = f"{number:,} of {found.total:,} frames are broken{', all in the JSON report' * (number > SHOWN)}"
    return problem("broken frames", severity, what, causes, mend)


def _holes(found: Survey) -> Iterator[Finding]:
    """Frame numbers that are skipped, and times that jump, where most steps are the usual one."""
    numbers: dict[str, list[int]] = defaultdict(list)
    times: dict[str, list[int]] = defaultdict(list)
    for frame, _ in found.listed:
        if match := _NUMBER.search(frame.sample_id):
            chosen = numbers if len(match[0]) <= _LONGEST_NUMBER else times
            chosen[frame.sample_id[: match.start()] + frame.sequence].append(int(match[0]))
    for what, runs, jitter in (("frame numbers are skipped", numbers, 0.0), ("frame times jump", times, _JITTER)):
        holes = _long_steps(runs, jitter)
        if holes:
            mend = "Harmless if frames were left out on purpose; otherwise look for files that were lost or renamed."
            yield problem("numbering", Severity.WARNING, f"{what} in {len(holes)} places", holes, mend)


def _long_steps(runs: dict[str, list[int]], jitter: float) -> list[str]:
    """Where numbers go on by more than the usual step; nothing where less than half of the steps are usual.

    Args:
        runs: numbers in order, by name.
        jitter: share by which a usual step may differ from their median.
    """
    steps = [after - before for each in runs.values() for before, after in pairwise(each)]
    usual = median_low(steps) if steps else 0
    if usual < 1 or 2 * sum(abs(step - usual) <= jitter * usual for step in steps) < len(steps):
        return []
    return [
        f"{name} ({before} is followed by {after})"
        for name, each in runs.items()
        for before, after in pairwise(each)
        if after - before > (1 + 2 * jitter) * usual
    ]


def _without_scan(found: Survey) -> Iterator[Finding]:
    without = [facts.sample_id for facts in found.sound if facts.row["points"] is None]
    if 0 < len(without) < len(found.sound):
        what = f"{len(without)} frames have no scan, the others have"
        mend = "Complete the scans, or expect these frames only where depth maps are used."
        yield problem("scans", Severity.WARNING, what, without, mend)


def below(root: Path, file: Path) -> str:
    """Path of a file relative to the root, for people; bytes of a name that are no text are written as escapes."""
    path = file.relative_to(root) if file.is_relative_to(root) else file
    return path.as_posix().encode(errors="backslashreplace").decode()
