"""Check: examine raw frames, and say what is wrong with them before anything is trained on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simipu_core import storage
from simipu_core.checking import calibrations, clocks, counts, depths, leakage, pictures, returns, scans
from simipu_core.checking.page import page
from simipu_core.checking.report import BrokenFrame, Finding, Report
from simipu_core.checking.survey import Survey, sample, survey
from simipu_core.config import PairConfig
from simipu_core.data.catalogue import SYNTHETIC_FILE
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.schema import FrameRow
from simipu_core.data.sources import Source
from simipu_core.files import disk_errors, write_file

REPORT_FILE, PAGE_FILE = "check.json", "check.html"
_CHECKS = (counts, calibrations, scans, returns, clocks, depths, pictures, leakage)


def check(source: Source, pair: PairConfig, out: Path | None = None, *, root: str | None = None) -> Report:
    """Examine a source.

    Args:
        source: the data set and its options.
        pair: what pairing will ask of the frames.
        out: folder for the report (``check.json``, ``check.html``); files of these names are replaced.
        root: URI of the raw data; overrides `source.root`.

    Raises:
        SimipuError: no frames, or `out` cannot be written.
    """
    folder = storage.resolve(root or source.root)
    found = survey(source, pair, folder, (folder / SYNTHETIC_FILE).is_file())
    report = _report(found)
    if out is not None:
        with disk_errors(out):
            write_file(out / REPORT_FILE, (report.model_dump_json(indent=1) + "\n").encode())
            write_file(out / PAGE_FILE, page(report, found).encode())
    return report


def check_sample(
    source: Source,
    root: Path,
    listed: Sequence[tuple[Frame | Rejected, str]],
    rows: Iterable[FrameRow],
    broken: list[Rejected],
    out: Path,
) -> Report:
    """The quick part: all that examined frames tell without being read again, and the rest from a sample of them.

    Args:
        source: the data set and its options.
        root: folder of the raw data.
        listed: frames that the split keeps, with their split.
        rows: those of the sound ones.
        broken: the others.
        out: HTML file for the page; one of this name is replaced.

    Raises:
        SimipuError: `out` cannot be written.
    """
    found = sample(source, root, (root / SYNTHETIC_FILE).is_file(), listed, rows, broken)
    report = _report(found)
    with disk_errors(out):
        write_file(out, page(report, found).encode())
    return report


def _report(found: Survey) -> Report:
    source = found.source.model_dump(mode="json", exclude={"root"})
    return Report(
        kind=found.source.kind,
        root=str(found.root),
        parameters={"source": source, "pair": found.pair.model_dump(mode="json")},
        frames=len(found.sound),
        findings=tuple(_findings(found)),
        broken=tuple(_broken(found)),
        statistics=_statistics(found),
    )


def _findings(found: Survey) -> list[Finding]:
    if not found.facts:
        return list(counts.check(found))
    return [finding for each in _CHECKS for finding in each.check(found)]


def _broken(found: Survey) -> list[BrokenFrame]:
    return [
        BrokenFrame(sample_id=each.sample_id, file=counts.below(found.root, each.file), reason=each.reason)
        for each in found.broken
    ]


def _statistics(found: Survey) -> dict[str, Any]:
    if not found.facts or found.is_sample:
        return {}
    return pictures.statistics(found) | clocks.statistics(found) | depths.statistics(found)
