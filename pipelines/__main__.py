"""``python -m pipelines``: run the pipeline here, compile it for Kubeflow, or run it there."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines import remote
from pipelines.options import ClusterOption, DataImageOption, ImageOption, Runner, SweepOption, chosen, placed
from pipelines.output import show_anything
from simipu_core import project
from simipu_core.cli.options import ExperimentOption, SetOption
from simipu_core.errors import SimipuError, plain_errors
from simipu_core.termination import ended_by_signal

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
    sweep: SweepOption = None,
    runner: Annotated[
        Runner,
        typer.Option(help="Each step in a process, or in a container of its image: SIMIPU_IMAGE, SIMIPU_DATA_IMAGE."),
    ] = "process",
    overrides: SetOption = None,
) -> None:
    """Run all steps on this machine; unchanged steps come from the cache."""
    rows = chosen(experiment, overrides, sweep=sweep, data=data)
    from pipelines.local import run, run_sweep

    if len(rows) > 1:
        run_sweep(rows, Console(), runner)
    else:
        run(rows[0], runner).show(Console())


@app.command()
def compile(  # noqa: A001 (the command's name)
    experiment: ExperimentOption = "demo",
    out: Annotated[
        Path | None, typer.Option(help="File to write; build/pipeline-EXPERIMENT.yaml by default.", metavar="FILE")
    ] = None,
    cluster: ClusterOption = None,
    image: ImageOption = None,
    data_image: DataImageOption = None,
    sweep: SweepOption = None,
    as_manifest: Annotated[
        bool,
        typer.Option("--kubernetes-manifest", help="Write Pipeline and PipelineVersion resources; needs --cluster."),
    ] = False,
    as_argo: Annotated[
        bool,
        typer.Option("--argo", help="Write a plain Argo Workflow, for clusters without Kubeflow; needs --cluster."),
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Write the pipeline as Kubeflow IR YAML, with the experiment's settings as its defaults.

    Example: `python -m pipelines compile --sweep improved --cluster cluster.yaml --image name@sha256:…`
    """
    rows = chosen(experiment, overrides, sweep=sweep)
    from pipelines.package import write, write_argo, write_manifest
    from pipelines.rows import title

    file = out or project.root() / "build" / f"pipeline-{title(rows)}.yaml"
    settings = placed(cluster, image, data_image)
    if as_manifest or as_argo:
        if settings is None or as_manifest == as_argo:
            raise SimipuError("--kubernetes-manifest or --argo, one of them, goes with --cluster cluster.yaml.")
        (write_manifest if as_manifest else write_argo)(rows, file, settings)
    else:
        write(rows, file, settings)
    print(file)


app.add_typer(remote.app)


if __name__ == "__main__":
    show_anything()
    with plain_errors(), ended_by_signal():
        sys.exit(app())
