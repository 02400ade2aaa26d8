"""Run the pipeline on this machine, one subprocess a step."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kfp import local
from kfp.dsl.base_component import BaseComponent
from rich.console import Console
from rich.markdown import Markdown

from pipelines.containers import docker_runner, steps_in_containers
from pipelines.options import Runner
from pipelines.output import step_lines
from pipelines.processes import steps_as_processes
from pipelines.raw import raw_uris, with_pinned_weights
from pipelines.rows import title, uris
from pipelines.simipu import pipeline
from pipelines.summary import Step, Summary
from pipelines.tasks import OUTPUTS
from simipu_core import project
from simipu_core.artifacts import read_manifest, sha256_text
from simipu_core.errors import SimipuError
from simipu_core.evaluation.report import Report
from simipu_core.experiment import Experiment
from simipu_core.stages.table import MARKDOWN
from simipu_core.storage import split_pin
from simipu_core.termination import ended_by_signal
from simipu_core.tracking.mlflow_run import PARENT_RUN_ID, tracking_uri
from simipu_core.tracking.pipeline_run import PipelineRun, start_parent
from simipu_core.tracking.registry import ModelVersion, aliases

GO_ON = (
    "The same command goes on from here: finished steps come from the cache, an unfinished training starts from its "
    "last checkpoint."
)


def run(experiment: Experiment, runner: Runner = "process") -> Summary:
    """Run all steps, those from the cache apart whose code, inputs and settings did not change.

    Args:
        experiment: what to run.
        runner: each step in a `process` of its own, or in a container of its image by `docker`.

    Returns:
        The summary, which is also written to build/summary.json.

    Raises:
        SimipuError: with the cause that the failed step gave.
    """
    begun = time.monotonic()
    with _stoppable():
        experiment = with_pinned_weights(experiment)
        addresses = raw_uris(experiment)
        steps = {"raw": Step(seconds=time.monotonic() - begun, cached=False)}
        with _parent(experiment) as parent:
            outputs = _execute(pipeline(experiment), parent, addresses, runner)
            steps |= _steps(parent, outputs)
            summary = _summary(experiment, parent, outputs, steps, begun)
            summary.write(project.root() / "build" / "summary.json")
            parent.record({f"{protocol}/abs_rel": scores["abs_rel"] for protocol, scores in summary.metrics.items()})
    return summary


def run_sweep(rows: Sequence[Experiment], console: Console, runner: Runner = "process") -> Path:
    """Run several experiments as one pipeline; steps that they have in common run once.

    Args:
        rows: experiments.
        console: where the table of results is shown.
        runner: as for :func:`run`.

    Returns:
        Folder with the table as JSON, CSV, Markdown and HTML.

    Raises:
        SimipuError: with the cause that the failed step gave.
    """
    with _stoppable():
        rows = [with_pinned_weights(row) for row in rows]
        made, addresses = pipeline(rows), raw_uris(rows)
        settings = {row.experiment: row.model_dump(mode="json") for row in rows}
        with _parent(rows[0], title(rows), settings) as parent:
            table = Path(_execute(made, parent, addresses, runner)["results"].path)
            console.print(Markdown((table / MARKDOWN).read_text(encoding="utf-8")))
            console.print(f"Table    {table}", soft_wrap=True)
    return table


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal ends the block with all that it has begun; then it is said how to go on."""
    try:
        with ended_by_signal():
            yield
    except (KeyboardInterrupt, SystemExit):
        with suppress(OSError):
            print(GO_ON, file=sys.stderr, flush=True)
        raise


@contextmanager
def _parent(*about: Any) -> Iterator[PipelineRun]:
    """The run in MLflow that the steps' runs nest under; it is ended as the block ends.

    Args:
        about: as for `start_parent`.
    """
    parent = start_parent(*about)
    try:
        yield parent
    except Exception as error:
        parent.fail(str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        parent.fail("stopped by a signal.", "KILLED")
        raise
    parent.finish()


def _execute(
    made: BaseComponent, parent: PipelineRun, arguments: Mapping[str, Any], runner: Runner = "process"
) -> dict[str, Any]:
    build_folder = project.root() / "build"
    os.environ.pop("MLFLOW_RUN_ID", None)  # each step is to make its own run
    variables = {
        PARENT_RUN_ID: parent.run_id,
        "MLFLOW_TRACKING_URI": tracking_uri(),
        "SIMIPU_CHECKPOINTS": str(project.checkpoints()),
        "PYTHONUNBUFFERED": "1",
        # sums of several threads differ in their last digits, which training blows up: as in the images, one it is
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
    }
    os.environ.update(variables)
    in_docker = runner == "docker"
    local.init(
        docker_runner(data_folders(arguments)) if in_docker else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(build_folder / "pipeline"),
        enable_caching=True,
        cache_root=str(build_folder / "kfp-cache" / sha256_text(parent.history)[:16]),
    )
    as_asked = steps_in_containers({**variables, "HOME": "/tmp"}) if in_docker else steps_as_processes()  # noqa: S108
    with step_lines() as lines, as_asked:
        try:
            outputs: dict[str, Any] = made(**arguments).outputs
        except RuntimeError as error:
            where = re.sub(r"\x1b\[\d+m", "", str(error))
            raise SimipuError(
                "\nerror: ".join(lines.problems) or f"a step broke off, see the lines above. {where}"
            ) from None
    return outputs


def data_folders(addresses: Mapping[str, Any]) -> list[Path]:
    """Local folders that a pipeline's addresses of raw frames (:func:`pipelines.raw.raw_uris`) lead to."""
    places = [Path(split_pin(uri)[0]) for uri in uris(addresses) if not uri.startswith("s3://")]
    return [place.parents[2] if place.suffix == ".dir" else place for place in places]


def _steps(parent: PipelineRun, outputs: dict[str, Any]) -> dict[str, Step]:
    seconds = parent.seconds()
    steps = {}
    for output, (name, *_) in OUTPUTS.items():
        if output not in outputs or output == "metrics":
            continue
        steps[name] = Step(seconds=seconds.get(name, 0.0), cached=name not in seconds)
        if steps[name].cached:
            parent.record_cached(name, read_manifest(Path(outputs[output].path)).mlflow_run_id)
    return steps


def _summary(
    experiment: Experiment, parent: PipelineRun, outputs: dict[str, Any], steps: dict[str, Step], begun: float
) -> Summary:
    report = Report.model_validate_json((Path(outputs["report"].path) / "report.json").read_text(encoding="utf-8"))
    released = json.loads(Path(outputs["metrics"].path).read_text(encoding="utf-8"))
    registered = ModelVersion.model_validate(released["model"])
    return Summary(
        experiment=experiment.experiment,
        protocol=report.headline,
        abs_rel=report.abs_rel,
        metrics=report.metrics,
        baselines=report.baselines,
        model=registered.model_copy(update={"alias": aliases(registered)}),
        promotion=released["outcome"],
        mlflow_run_id=parent.run_id,
        mlflow_url=parent.page,
        seconds=time.monotonic() - begun,
        steps=steps,
    )
