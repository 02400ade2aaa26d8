"""The command that examines a data set."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simipu_core.cli.options import ExperimentOption, SetOption, load, local_place, not_empty
from simipu_core.cli.stages import Use

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from simipu_core.checking.report import Finding, Report

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def check(
    use: Annotated[
        Use,
        typer.Argument(help="Which of the experiment's sources: `pretrain` (pretrain_data) or `depth` (depth_data)."),
    ] = Use.PRETRAIN,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Layout, instead of the experiment's source: kitti_object, nyu, waymo, …"),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", callback=not_empty, help="Raw frames, instead of the experiment's root."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            parser=local_place,
            help="Where check.json and check.html are written.",
        ),
    ] = Path("build/check"),
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Examine raw frames before they are trained on: counts, calibration, times, depth, images, leakage.

    Prints what was found, and writes it as JSON and as a page with overlays. Ends with code 1 if there is a fault.

    Example: `simipu check --kind kitti_object --root ~/kitti`
    """
    chosen = load(experiment, overrides)
    from rich.console import Console

    from simipu_core.config import validate
    from simipu_core.data.sources import AnySource
    from simipu_core.stages import check as stage

    source = chosen.pretrain_data if use is Use.PRETRAIN else chosen.depth_frames
    if kind is not None:
        values: dict[str, Any] = {"kind": kind, "root": source.root}
        source = validate(AnySource, values, "--kind")
    report = stage.check(source, chosen.pair, out, root=root)
    Console(highlight=False).print(_table(report))
    print(f"{out}: {stage.REPORT_FILE}, {stage.PAGE_FILE} · {_count(report)}")
    if report.has_faults:
        raise typer.Exit(1)


def _table(report: "Report") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = f"{report.kind} in {report.root}: {report.frames:,} sound frames, {len(report.broken):,} broken"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("looked at", no_wrap=True)
    table.add_column("")
    table.add_column("found", ratio=1)
    for finding in report.findings:
        severity = Text(finding.severity, style=_COLOURS[finding.severity])
        table.add_row(finding.check, severity, _words(finding))
    return table


def _words(finding: "Finding") -> "Text":
    from rich.text import Text

    words = Text(finding.what)
    for name in finding.names:
        words.append(f"\n  {name}", style="dim")
    if finding.count > len(finding.names) > 0:
        words.append(f"\n  and {finding.count - len(finding.names):,} more", style="dim")
    if finding.mend:
        words.append(f"\n→ {finding.mend}")
    return words


def _count(report: "Report") -> str:
    counts = Counter(str(finding.severity) for finding in report.findings)
    plural = {name: "s" * (name != "ok" and counts[name] != 1) for name in _COLOURS}
    return ", ".join(f"{counts[name]} {name}{plural[name]}" for name in _COLOURS if counts[name])


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Raw data")(check)
