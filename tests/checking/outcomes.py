"""What becomes of each corruption; ``python -m tests.checking.outcomes [NAME…]`` writes the page of it anew."""

import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from simipu_core.checking.report import Severity
from simipu_core.config import PairConfig
from simipu_core.data.catalogue import read_frames
from simipu_core.errors import SimipuError
from simipu_core.stages.check import check
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.checking.corruptions import CORRUPTIONS, Corruption, applies
from tests.checking.datasets import DATA_SETS, DataSet, make_world

PAGE = Path(__file__).parents[2] / "docs" / "corruptions.md"
_TOLERANT = 0.7
UNSEEN = "nothing"
NOT_TOLD = {
    "image with a flipped bit",
    "scan exchanged with another frame's",
    "hidden files beside all others (all)",  # these four do no harm
    "scan with points without a return, and twice",
    "calibration with a byte-order mark",
    "depth map with 65535 in its holes",
    "depth 10 % too large",  # without a scan
}
"""Corruptions of some sources that nothing can tell, or that do no harm."""


class Outcome(NamedTuple):
    """One cell of the table."""

    check: str
    ingest: str
    pair: str


def outcome(data: DataSet, root: Path, work: Path, known: frozenset[str] = frozenset()) -> Outcome:
    """Run the three commands.

    Args:
        data: data set at `root`.
        root: raw data.
        work: empty folder for what they write.
        known: findings of the valid data set, which are not repeated.
    """
    lenient = PairConfig(max_broken_share=_TOLERANT)
    try:
        report = check(data.source(), PairConfig(), root=str(root))
        found = {f"{each.severity}: {each.check}" for each in report.findings if each.severity is not Severity.OK}
        seen = ", ".join(sorted(found - known)) or UNSEEN
    except SimipuError:
        seen = "stops"
    try:
        counts = ingest(data.source(max_broken_share=_TOLERANT), work / "frames", root=str(root)).counts
        ingested = _rejected(counts["broken"])
    except SimipuError:
        return Outcome(seen, "stops", "-")
    before = len(read_frames(work / "frames"))
    try:
        counts = pair(work / "frames", lenient, data.target, work / "shards").counts
        return Outcome(seen, ingested, _rejected(counts["broken"]) if before else "-")
    except SimipuError:
        return Outcome(seen, ingested, "stops")


def known_findings(data: DataSet, root: Path) -> frozenset[str]:
    """What is found in a valid data set, which must be no faults."""
    report = check(data.source(), PairConfig(), root=str(root))
    assert not report.has_faults, report.findings
    return frozenset(f"{each.severity}: {each.check}" for each in report.findings)


def outcomes(data: DataSet, world: Path, work: Path) -> dict[str, Outcome]:
    """What becomes of every corruption that a data set can have.

    Args:
        data: the kind of source.
        world: folder of all the valid data sets.
        work: empty folder.
    """
    valid = _copied(data, world, work / "valid")
    known = known_findings(data, valid)
    assert outcome(data, valid, work / "of_valid", known) == Outcome(UNSEEN, "takes all", "takes all")
    made = {}
    for number, corruption in enumerate(CORRUPTIONS):
        if applies(corruption, data):
            made[corruption.name] = _corrupted(corruption, data, world, work / str(number), known)
    return made


def section(data: DataSet, made: dict[str, Outcome]) -> str:
    """A data set's part of the page."""
    rows = "".join(f"| {name} | {each.check} | {each.ingest} | {each.pair} |\n" for name, each in made.items())
    return f"## {data.name}\n\n| corruption | check | ingest | pair |\n|---|---|---|---|\n{rows}"


def page(sections: Iterable[str]) -> str:
    """The whole page; what stands before the first section is kept."""
    return "\n".join([PAGE.read_text(encoding="utf-8").split("\n## ")[0], *sections])


def written_sections() -> dict[str, str]:
    """Parts of the page as it is, by name of the data set."""
    parts = PAGE.read_text(encoding="utf-8").split("## ")[1:]
    return {part.partition("\n")[0]: f"## {part}".rstrip("\n") + "\n" for part in parts}


def _corrupted(corruption: Corruption, data: DataSet, world: Path, work: Path, known: frozenset[str]) -> Outcome:
    root = _copied(data, world, work / "raw")
    corruption.corrupt(data, root)
    return outcome(data, root, work, known)


def _copied(data: DataSet, world: Path, root: Path) -> Path:
    for folder in data.folders:
        shutil.copytree(world / folder, root / folder)
    shutil.copy(world / "synthetic.json", root)
    return root


def _rejected(broken: float) -> str:
    return f"rejects {broken:g}" if broken else "takes all"


def main() -> None:
    """Write the page, or its parts of the data sets that are named."""
    chosen = [data for data in DATA_SETS if data.name in sys.argv[1:]] or DATA_SETS
    for data in chosen:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            make_world(Path(folder, "world"), *data.folders)
            made = section(data, outcomes(data, Path(folder, "world"), Path(folder)))
        sections = written_sections() | {data.name: made}
        PAGE.write_text(page(sections[each.name] for each in DATA_SETS if each.name in sections), encoding="utf-8")


if __name__ == "__main__":
    main()
