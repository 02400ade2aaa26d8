"""``python -m pipelines``: run the pipeline here, compile it for Kubeflow, or run it there."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines import remote
from simipu_core import project
from simipu_core.cli.options import ExperimentOption, SetOption, load
from simipu_core.errors import plain_errors

app = typer.Typer(
    help="Run the five-step pipeline on this machine, or on Kubeflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def local(
    experiment: ExperimentOption = "demo",
    data: Annotated[
        str | None, typer.Option(help="Folder of raw frames, instead of the experiment's own roots.", metavar="FOLDER")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Run all steps on this machine; unchanged steps come from the cache."""
    roots = [f"pretrain_data.root={data}", f"depth_data.root={data}"] if data else []
    chosen = load(experiment, [*roots, *(overrides or [])])
    from pipelines.local import run

    run(chosen).show(Console())


@app.command()
def compile(  # noqa: A001 (the command's name)
    experiment: ExperimentOption = "demo",
    out: Annotated[
        Path | None, typer.Option(help="File to write; build/pipeline-EXPERIMENT.yaml by default.", metavar="FILE")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Write the pipeline as Kubeflow IR YAML, with the experiment's settings as its defaults."""
    chosen = load(experiment, overrides)
    from pipelines.package import write

    file = out or project.root() / "build" / f"pipeline-{chosen.experiment}.yaml"
    write(chosen, file)
    print(file)


app.add_typer(remote.app)


if __name__ == "__main__":
    with plain_errors():
        sys.exit(app())
