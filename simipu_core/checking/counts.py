"""Are all frames there? Broken frames, and numbers of frames against the official ones."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

from simipu_core.checking.report import SHOWN, Finding, Severity, by_share, ok, problem
from simipu_core.checking.survey import Survey
from simipu_core.data import splits
from simipu_core.data.sources import Frame, Rejected, kitti_object

_NUMBER = re.compile(r"\d+$")
_LONGEST_NUMBER = 10
"""Digits of a frame number; longer ones are times."""
_JITTER = 0.25
"""Share of the usual interval by which times of regular frames may differ from it."""


class Official(NamedTuple):
    """A published number and how to count what is here."""

    what: str
    number: int
    here: Callable[[Survey], int]


def _all(found: Survey) -> int:
    return found.total


def _sequences(found: Survey) -> int:
    return len({frame.sequence for frame, _ in found.listed})


def _of_list(frames: list[tuple[str, int]], needs_depth: bool = False) -> Callable[[Survey], int]:
    def count(found: Survey) -> int:
        here = {
            (frame.sequence, frame.sample_id.rpartition("/")[2])
            for frame, _ in found.listed
            if not needs_depth or (isinstance(frame, Frame) and frame.depth)
        }
        return sum((drive, f"{index:010d}") in here for drive, index in frames)

    return count


def _testing(found: Survey) -> int:
    folder = kitti_object.find(found.root)
    return len(kitti_object.KITTI.stems(folder / "testing")) if folder else 0


def _in_folder(test: bool) -> Callable[[Survey], int]:
    return lambda found: sum(("test" in frame.sequence.split("/")) == test for frame, _ in found.listed)


def _kitti_object(found: Survey) -> list[Official]:
    numbers = {"training": 7_481, "train_half": 3_712, "train_half_and_testing": 11_230}
    every = found.source.every
    made = [Official(f"KITTI object frames ({found.source.frames})", -(-numbers[found.source.frames] // every), _all)]
    return [*made, Official("KITTI object testing frames", 7_518, _testing)] if _testing(found) else made


def _eigen(found: Survey) -> list[Official]:
    if found.source.every > 1:
        return []
    train, test = splits.eigen_train(), splits.eigen_test(with_groundtruth=False)
    lists = [("training", train), ("test", test)]
    if found.source.kind == "kitti_depth":
        lists[1] = ("test (with ground truth)", splits.eigen_test())
    needs_depth = found.source.kind == "kitti_depth"
    return [Official(f"Eigen {name} frames", len(each), _of_list(each, needs_depth)) for name, each in lists]


def _nyu(_: Survey) -> list[Official]:
    counts = splits.PUBLISHED_COUNTS
    return [
        Official("NYU training frames", counts["nyu_train"], _in_folder(test=False)),
        Official("NYU official test frames", counts["nyu_test"], _in_folder(test=True)),
    ]


def _waymo(found: Survey) -> list[Official]:
    every = found.source.every
    if any("validation" in file.parts for file in _files(found)):
        return [Official("Waymo validation segments", 202, _sequences)]
    frames = f"Waymo training frames of one camera{f', every {every}th' if every > 1 else ''}"
    return [
        Official("Waymo training segments", 798, _sequences),
        Official(frames, -(-158_081 // every), _all),
    ]


def _nuscenes(_: Survey) -> list[Official]:
    return [
        Official("nuScenes trainval scenes", 850, _sequences),
        Official("nuScenes trainval keyframes", 34_149, _all),
    ]


def _nyu_labelled(_: Survey) -> list[Official]:
    return [Official("NYU labelled frames (795 train, 654 test)", 1_449, _all)]


OFFICIAL: dict[str, Callable[[Survey], list[Official]]] = {
    "kitti_object": _kitti_object,
    "kitti_raw": _eigen,
    "kitti_depth": _eigen,
    "nyu": _nyu,
    "nyu_labelled": _nyu_labelled,
    "waymo": _waymo,
    "waymo_kitti": _waymo,
    "nuscenes": _nuscenes,
}
"""Published numbers by kind of source; a kind without an entry is counted only."""


def check(found: Survey) -> Iterator[Finding]:
    """Broken frames; complete or partial; holes in the numbering, frames that lack what the others have."""
    yield _broken(found)
    yield from _holes(found)
    yield from _without_scan(found)
    sequences = _sequences(found)
    splits_here = ", ".join(f"{number:,} {split}" for split, number in Counter(s for _, s in found.listed).items())
    counted = f"{found.total:,} frames in {sequences:,} sequence{'s' * (sequences != 1)} ({splits_here})"
    if found.is_synthetic:
        yield ok("count", f"{counted}; made by `simipu synthesize`, so there is no official number")
        return
    officials = OFFICIAL[found.source.kind](found) if found.source.kind in OFFICIAL else []
    if not officials:
        yield ok("count", f"{counted}; no official number is known for this kind")
    for official in officials:
        here = official.here(found)
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
    names = [describe(found.root, each) for each in found.broken]
    severity = by_share(len(names), found.total, found.source.max_broken_share)
    mend = "Mend or remove these files; ingest leaves them out."
    if severity is Severity.FAULT:
        mend = f"Mend or remove these files; ingest stops above a share of {found.source.max_broken_share:g}."
    what = f"{len(names):,} of {found.total:,} frames are broken{', all in the JSON report' * (len(names) > SHOWN)}"
    return problem("broken frames", severity, what, names, mend)


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
    without = [facts.sample_id for facts in found.facts if facts.row["points"] is None]
    if 0 < len(without) < len(found.facts):
        what = f"{len(without)} frames have no scan, the others have"
        mend = "Complete the scans, or expect these frames only where depth maps are used."
        yield problem("scans", Severity.WARNING, what, without, mend)


def describe(root: Path, broken: Rejected) -> str:
    """File, relative to the root, and reason."""
    return f"{below(root, broken.file)}: {broken.reason}"


def below(root: Path, file: Path) -> str:
    """Path of a file relative to the root, for people; bytes of a name that are no text are written as escapes."""
    path = file.relative_to(root) if file.is_relative_to(root) else file
    return path.as_posix().encode(errors="backslashreplace").decode()


def _files(found: Survey) -> list[Path]:
    return [frame.image if isinstance(frame, Frame) else frame.file for frame, _ in found.listed[:1]]
