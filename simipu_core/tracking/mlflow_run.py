"""One step as a run in MLflow.

Runs nest under the run named by ``SIMIPU_PARENT_RUN_ID``. A run that Kubeflow has already made for the step
(``MLFLOW_RUN_ID``) is adopted; Kubeflow ends it.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from simipu_core import project
from simipu_core.artifacts import code_revision
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError

PARENT_RUN_ID = "SIMIPU_PARENT_RUN_ID"
STEP_TAG = "simipu.step"
REVISION_TAG = "simipu.revision"
ERROR_TAG = "simipu.error"

_FLUSH_SECONDS = 5.0
_FLUSH_METRICS = 500
_PARAMS_A_BATCH = 100
_PARAM_LENGTH = 6000
_DIGEST_LENGTH = 36


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the sqlite database mlruns/mlflow.db in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.root() / 'mlruns' / 'mlflow.db'}"


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn what MLflow and its store raise into one sentence.

    Raises:
        SimipuError: the server does not answer or refuses.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        message = f"MLflow at {tracking_uri()} cannot be used ({_first_line(error)}); check MLFLOW_TRACKING_URI."
        raise SimipuError(re.sub(r"//[^@/ ]*@", "//", message)) from None


def connect() -> MlflowClient:
    """A client of the tracking server; the folder of a sqlite store is made.

    Raises:
        SimipuError: the address cannot be used.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with mlflow_errors():
        if folder := _sqlite_folder():
            folder.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri())


def find_experiment(client: MlflowClient, name: str) -> str:
    """Id of an MLflow experiment, which is made if need be.

    Raises:
        SimipuError: the server does not answer or refuses, or the experiment was deleted.
    """
    with mlflow_errors():
        if found := client.get_experiment_by_name(name):
            if found.lifecycle_stage != "active":
                raise SimipuError(
                    f"MLflow experiment {name} was deleted; restore it or set tracking.mlflow_experiment."
                )
            return str(found.experiment_id)
        folder = _sqlite_folder()
        return str(client.create_experiment(name, (folder / "artifacts").as_uri() if folder else None))


def _sqlite_folder() -> Path | None:
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")).absolute().parent if uri.startswith("sqlite:///") else None


class MlflowRun:
    """A run in MLflow; see :class:`simipu_core.tracking.run.Run`. Numbers are sent in batches."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.id = run_id
        self.run_id: str | None = run_id
        self._metrics: list[Metric] = []
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        flat = [Param(key, _text(value)[:_PARAM_LENGTH]) for key, value in flatten(params).items()]
        for begin in range(0, len(flat), _PARAMS_A_BATCH):
            self.client.log_batch(self.id, params=flat[begin : begin + _PARAMS_A_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self._metrics += [Metric(key, float(value), now, step or 0) for key, value in metrics.items()]
        if len(self._metrics) >= _FLUSH_METRICS or time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def log_file(self, path: Path, folder: str = "") -> None:
        self.client.log_artifact(self.id, str(path), folder or None)

    def log_input(self, name: str, digest: str, context: str) -> None:
        dataset = Dataset(name, digest[:_DIGEST_LENGTH], source_type="local", source=json.dumps({"uri": name}))
        tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
        self.client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def flush(self) -> None:
        """Send the numbers that wait."""
        waiting, self._metrics = self._metrics, []
        if waiting:
            self.client.log_batch(self.id, metrics=waiting)
        self._flushed = time.monotonic()


@contextmanager
def step(name: str, experiment: str | None = None) -> Iterator[MlflowRun]:
    """Track one step: finished when the block ends, failed with the message when it raises.

    Args:
        name: name of the step, e.g. ``"pretrain"``.
        experiment: MLflow experiment of a stand-alone run; a nested run stays in its parent's.

    Raises:
        SimipuError: MLflow cannot be used.
    """
    client = connect()
    adopted = os.environ.get("MLFLOW_RUN_ID")
    with mlflow_errors():
        run_id = adopted or _new_run(client, name, experiment or TrackingConfig().mlflow_experiment)
        client.set_tag(run_id, STEP_TAG, name)
    run = MlflowRun(client, run_id)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        client.set_tag(run_id, ERROR_TAG, _first_line(error))
        raise
    finally:
        run.flush()
        if not adopted:
            client.set_terminated(run_id, status)


def _new_run(client: MlflowClient, name: str, experiment: str) -> str:
    tags = {REVISION_TAG: code_revision()}
    if parent := os.environ.get(PARENT_RUN_ID):
        experiment_id = client.get_run(parent).info.experiment_id
        tags[MLFLOW_PARENT_RUN_ID] = parent
    else:
        experiment_id = find_experiment(client, experiment)
    return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
