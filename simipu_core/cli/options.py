"""Options that several commands share; what reads them is loaded when a command runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simipu_core.artifacts import Manifest
    from simipu_core.experiment import Experiment
    from simipu_core.tracking.run import Run


def place(address: str) -> Path:
    """The path of a local path or an S3 address."""
    from simipu_core import storage

    return storage.place(address)


def local_place(address: str | Path) -> Path:
    """The path of a local path, or of an option's default; another address is refused."""
    from simipu_core import storage

    return storage.local_place(str(address))


def not_empty(value: str | None) -> str | None:
    """The value of an option; one of nothing, as the shell makes of a variable that is not set, is refused."""
    if value is not None and not value.strip():
        raise typer.BadParameter("is empty; is a variable of the shell not set?")
    return value


ExperimentOption = Annotated[
    str,
    typer.Option(
        "--experiment",
        "-e",
        metavar="NAME|FILE",
        help="Experiment: `demo` (params.yaml), a NAME in experiments/, or a YAML file.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. finetune.epochs=3; may be repeated."),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="FOLDER", parser=place, help="Folder to write, or s3://bucket/prefix; must be new."
    ),
]
NoTrackOption = Annotated[bool, typer.Option("--no-track", help="Record nothing in MLflow.")]


def load(experiment: str, overrides: list[str] | None) -> "Experiment":
    """Read the experiment that the options name."""
    from simipu_core.experiment import load_experiment
    from simipu_core.project import experiment_file

    return load_experiment(experiment_file(experiment), overrides)


@contextmanager
def tracked(step: str, experiment: "Experiment", no_track: bool, out: Path) -> Iterator["Run"]:
    """A run of its own in MLflow, or a silent one; under torchrun the first process records.

    Args:
        step: name of the step.
        experiment: its settings.
        no_track: record nothing.
        out: artifact that the step writes.
    """
    if no_track or not _is_first():
        from simipu_core.tracking.run import SilentRun

        yield SilentRun()
        return
    from simipu_core.tracking.mlflow_run import step as track

    with track(step, experiment.tracking.mlflow_experiment, out=out) as run:
        yield run


def report(manifest: "Manifest", out: Path) -> None:
    """Say what was made; under torchrun the first process does."""
    if not _is_first():
        return
    counts = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in manifest.counts.items())
    print(f"{out}: {manifest.kind}{' · ' + counts if counts else ''}")


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"
