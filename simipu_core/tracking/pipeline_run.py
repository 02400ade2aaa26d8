"""The run of a whole pipeline, parent of its steps' runs."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from simipu_core.artifacts import code_revision
from simipu_core.experiment import Experiment
from simipu_core.tracking.mlflow_run import (
    ERROR_TAG,
    MARK_TAG,
    PIPELINE_RUN_TAG,
    REVISION_TAG,
    STEP_TAG,
    MlflowRun,
    adopt_left_behind,
    claimed,
    connect,
    end_left_open,
    find_experiment,
    leave_unsent,
    mlflow_errors,
)

CACHED_FROM_TAG = "simipu.cached_from"
_PATIENCE = 20.0


@dataclass(frozen=True)
class PipelineRun:
    """An open parent run."""

    client: MlflowClient
    experiment_id: str
    run: MlflowRun

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.run.id

    @property
    def page(self) -> str:
        """Address at which a person sees it."""
        return self.run.page

    @property
    def history(self) -> str:
        """Names this tracking store and experiment for good: a store made anew gets another."""
        experiment = self.client.get_experiment(self.experiment_id)
        return f"{self.client.tracking_uri} {self.experiment_id} {experiment.creation_time}"

    def seconds(self) -> dict[str, float]:
        """Duration of each step that ran under this run, by name.

        Raises:
            SimipuError: MLflow does not answer.
        """
        with mlflow_errors():
            found = self.client.search_runs([self.experiment_id], f"tags.{MLFLOW_PARENT_RUN_ID!r} = '{self.run_id}'")
        return {run.data.tags.get(STEP_TAG, run.info.run_name): _seconds(run) for run in found}

    def record_cached(self, step: str, original: str | None) -> None:
        """Show a step that was taken from the cache as a child run that names the run which made it.

        Raises:
            SimipuError: MLflow does not answer.
        """
        tags = {MLFLOW_PARENT_RUN_ID: self.run_id, STEP_TAG: step, CACHED_FROM_TAG: original or "unknown"}
        with mlflow_errors():
            run = self.client.create_run(self.experiment_id, tags=tags, run_name=f"{step} (cached)")
            self.client.set_terminated(run.info.run_id)

    def record(self, metrics: dict[str, float]) -> None:
        """Record its headline numbers."""
        self.run.log_metrics(metrics)

    def finish(self) -> None:
        """End the run."""
        self._end("FINISHED")

    def fail(self, message: str, status: str = "FAILED") -> None:
        """End the run as failed (or ``KILLED``), with the cause, and as killed those of steps that left theirs open."""
        self.run.log_tags({ERROR_TAG: message})
        with suppress(MlflowException, OSError):
            end_left_open(self.client, [self.experiment_id], f"tags.{MLFLOW_PARENT_RUN_ID!r} = '{self.run_id}'")
        self._end(status)

    def _end(self, status: str) -> None:
        self.run.end(status)
        leave_unsent(self.run.close(_PATIENCE), self.run_id)


def start_parent(
    experiment: Experiment, name: str | None = None, params: Mapping[str, Any] | None = None
) -> PipelineRun:
    """Open the parent run of one pipeline run and record the whole configuration.

    Args:
        experiment: what runs; of a sweep, the first one.
        name: name of the run, instead of the experiment's.
        params: what is recorded, instead of the experiment's settings.

    Raises:
        SimipuError: MLflow cannot be used.
    """
    client = connect()
    experiment_id = find_experiment(client, experiment.tracking.mlflow_experiment)
    name = name or experiment.experiment
    title = f"{name} {time.strftime('%Y-%m-%d %H:%M')}"
    tags = {REVISION_TAG: code_revision(), "simipu.experiment": name}
    with mlflow_errors():
        adopt_left_behind(client)
        with claimed() as mark:
            run_id = client.create_run(experiment_id, tags=tags | {MARK_TAG: mark}, run_name=title).info.run_id
            run = MlflowRun(client, run_id, experiment_id, [run_id])
    run.log_params(params or experiment.model_dump(mode="json"))
    return PipelineRun(client, experiment_id, run)


def end_killed(key: str, status: str) -> list[str]:
    """End what a pipeline run that is over has left open in MLflow: runs of killed steps, and their shared parent.

    Args:
        key: name of the pipeline run, which its steps have as ``SIMIPU_PIPELINE_RUN``.
        status: of the parent; steps are ``KILLED``.

    Returns:
        Names of the runs that were ended.

    Raises:
        SimipuError: MLflow does not answer or refuses.
    """
    client = connect()
    with mlflow_errors():
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return end_left_open(client, experiments, f"tags.`{PIPELINE_RUN_TAG}` = '{key}'", status)


def _seconds(run: Run) -> float:
    end = run.info.end_time or int(time.time() * 1000)
    return float(end - run.info.start_time) / 1000
