"""Commands that run one stage. Stages are imported when they run: `simipu --help` must not load PyTorch."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simipu_core.cli.options import (
    ExperimentOption,
    NoTrackOption,
    OutOption,
    SetOption,
    load,
    not_empty,
    place,
    report,
    tracked,
)
from simipu_core.errors import SimipuError
from simipu_core.project import checkpoints

if TYPE_CHECKING:
    from simipu_core.experiment import Experiment


class Use(StrEnum):
    """What frames are for."""

    PRETRAIN = "pretrain"
    DEPTH = "depth"


UseArgument = Annotated[
    Use, typer.Argument(help="`pretrain`: unlabelled image-scan pairs. `depth`: frames for fine-tuning and scoring.")
]


def _artifact(kind: str, step: str) -> Any:
    help_ = f"Folder, or s3://bucket/prefix, written by `simipu {step}`."
    return typer.Argument(metavar=kind, help=help_, parser=place, show_default=False)


def synthesize(
    out: OutOption,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Render a synthetic world to genuine KITTI and NYU files, or to own logs.

    Example: `simipu synthesize --out data/raw --set synthetic.drives=2`
    """
    config = load(experiment, overrides).synthetic
    from simipu_core import synthetic

    synthetic.synthesize(config, out, workers=workers)


def ingest(
    use: UseArgument,
    out: OutOption,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            callback=not_empty,
            help="Raw frames, instead of the experiment's root: a folder or s3:// address.",
        ),
    ] = None,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    no_track: NoTrackOption = False,
) -> None:
    """Check every raw frame and write a catalogue: one row a frame, no pixels.

    Broken frames are listed with their reasons in rejected.json. What the quick part of `simipu check` finds is
    printed, and shown by a page beside OUT; a fault stops it, unless the source's `allow_faults` names it.

    Example: `simipu ingest depth --experiment kitti_sample --root ~/kitti --out build/frames`
    """
    chosen = load(experiment, overrides)
    from simipu_core.stages import ingest as stage

    source = chosen.pretrain_data if use is Use.PRETRAIN else chosen.depth_frames
    with tracked(f"ingest_{use}", chosen, no_track, out) as run:
        report(stage.ingest(source, out, root=root, run=run, page=_page_beside(out)), out)


def _page_beside(out: Path) -> Path:
    """The page that tells about an artifact, in build/ where it lies in S3."""
    from simipu_core.storage import S3Path

    folder = Path("build") if isinstance(out, S3Path) else out.parent
    return folder / f"{out.name}.html"


def pair(
    use: UseArgument,
    catalogue: Annotated[Path, _artifact("CATALOGUE", "ingest")],
    out: OutOption,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    no_track: NoTrackOption = False,
) -> None:
    """Pack catalogued frames into self-contained Parquet shards.

    Images are matched with scans, scans are projected, depth labels are read or made from the scans.

    Example: `simipu pair depth build/frames --out build/depth`
    """
    chosen = load(experiment, overrides)
    from simipu_core.stages import pair as stage

    with tracked(f"pair_{use}", chosen, no_track, out) as run:
        report(stage.pair(catalogue, chosen.pair, "pairs" if use is Use.PRETRAIN else "depth", out, run=run), out)


def pretrain(
    pairs: Annotated[Path, _artifact("PAIRS", "pair pretrain")],
    out: OutOption,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    no_track: NoTrackOption = False,
) -> None:
    """Pre-train the image encoder on image-scan pairs, without labels.

    A run that was stopped goes on from its last checkpoint.

    Example: `simipu pretrain build/pairs --out build/encoder --set pretrain.epochs=2`
    """
    chosen = load(experiment, overrides)
    from simipu_core.stages import pretrain as stage

    with tracked("pretrain", chosen, no_track, out) as run:
        report(stage.pretrain(pairs, chosen.pretrain, out, run=run, checkpoints=checkpoints()), out)


def finetune(
    depth: Annotated[Path, _artifact("DEPTH", "pair depth")],
    out: OutOption,
    encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=place,
            help="Pre-trained encoder, from `simipu pretrain`, for finetune.init=pretrained.",
        ),
    ] = None,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    no_track: NoTrackOption = False,
) -> None:
    """Fine-tune a depth network, from a pre-trained encoder or another start.

    A run that was stopped goes on from its last checkpoint.

    Example: `simipu finetune build/depth --encoder build/encoder --out build/net`
    """
    chosen = load(experiment, overrides)
    from simipu_core.stages import finetune as stage

    step = "finetune"
    with tracked(step, chosen, no_track, out) as run:
        made = stage.finetune(depth, chosen.finetune, out, encoder=encoder, run=run, checkpoints=checkpoints())
        report(made, out)


def evaluate(
    model: Annotated[Path, _artifact("MODEL", "finetune")],
    depth: Annotated[Path, _artifact("DEPTH", "pair depth")],
    out: OutOption,
    control: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=place,
            help="Network that started from PyTorch's default weights, scored beside the model.",
        ),
    ] = None,
    register: Annotated[
        bool,
        typer.Option(
            "--register", help="Score the champion too, register the model, promote it if tracking.promotion says so."
        ),
    ] = False,
    experiment: ExperimentOption = "demo",
    overrides: SetOption = None,
    no_track: NoTrackOption = False,
) -> None:
    """Score a depth network on the held-out frames, under every named protocol.

    Example: `simipu evaluate build/net build/depth --out build/report`
    """
    chosen = load(experiment, overrides)
    if register:
        _release(model, depth, chosen, out, control)
        return
    from simipu_core.stages import evaluate as stage

    with tracked("evaluate", chosen, no_track, out) as run:
        report(stage.evaluate(model, depth, chosen.evaluate, out, control=control, run=run), out)


def _release(model: Path, depth: Path, chosen: "Experiment", out: Path, control: Path | None) -> None:
    from simipu_core.stages.release import release
    from simipu_core.tracking.mlflow_run import step as track

    with track("evaluate", chosen.tracking.mlflow_experiment, out=out, is_last=True) as run:
        made = release(
            model,
            depth,
            chosen.evaluate,
            chosen.tracking,
            out,
            experiment=chosen.experiment,
            run=run,
            control=control,
        )
        print(f"{out}: {made.model.name} version {made.model.version}, {made.outcome}")


def table(
    reports: Annotated[
        list[str], typer.Argument(metavar="NAME=REPORT…", help="Names and folders written by `simipu evaluate`.")
    ],
    out: OutOption,
) -> None:
    """Put the reports of several experiments side by side, as Markdown, HTML, CSV and JSON.

    Example: `simipu table scratch=build/report1 pretrained=build/report2 --out build/table`
    """
    folders = dict(named.partition("=")[::2] for named in reports)
    if "" in folders or not all(folders.values()) or len(folders) < len(reports):
        raise SimipuError("table: give NAME=FOLDER for every report, each name once.")
    from simipu_core.stages.table import read_scores
    from simipu_core.stages.table import table as stage

    report(stage({name: read_scores(Path(folder)) for name, folder in folders.items()}, out), out)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Raw data")(synthesize)
    for command in (ingest, pair, pretrain, finetune, evaluate):
        app.command(rich_help_panel="Steps, in order")(command)
    app.command(rich_help_panel="Settings, results and models")(table)
