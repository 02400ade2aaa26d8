"""One step as a run in MLflow.

Runs nest under the run named by ``SIMIPU_PARENT_RUN_ID``; where there is none but ``SIMIPU_PIPELINE_RUN`` names the
pipeline run, under the run that all steps of that name share. A run that Kubeflow has already made for the step
(``MLFLOW_RUN_ID``) is adopted; Kubeflow ends it.

A step needs the server when it begins: where no run can be opened it stops at once, before hours of work. From then on
the server may go away. What a step records is kept and sent in order when the server is back; what could not be sent by
the end is left in a file, for ``simipu tracking send``. What a killed step has left on this machine the next one sends.
"""

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.entities import RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from simipu_core import project
from simipu_core.artifacts import code_revision, sha256_text
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError, StoppedError, machine_errors
from simipu_core.redaction import has_password, has_userinfo, redacted
from simipu_core.storage import S3Path
from simipu_core.termination import ended_by_signal
from simipu_core.tracking.any_folder import mend_mlflow, sqlite_uri
from simipu_core.tracking.delivery import Entry, deliver, file_entry
from simipu_core.tracking.outbox import Outbox, adopt, claim
from simipu_core.tracking.system_metrics import recorded

PARENT_RUN_ID = "SIMIPU_PARENT_RUN_ID"
PIPELINE_RUN = "SIMIPU_PIPELINE_RUN"
MLFLOW_PAGE = "SIMIPU_MLFLOW_PAGE"
"""Names the address at which people see MLflow, where it is another than the steps' own."""
STEP_TAG = "simipu.step"
REVISION_TAG = "simipu.revision"
IMAGE_TAG = "simipu.image"
PIPELINE_RUN_TAG = "simipu.pipeline_run"
ERROR_TAG = "simipu.error"
MARK_TAG = "simipu.mark"
"""By which a run is found whose id its maker did not get to know."""
UNSENT = "unsent-tracking.jsonl"

_LOCAL_PAGE = "http://127.0.0.1:5000"
"""Where ``make mlflow`` shows a local store."""
_SHARED_TAG = "simipu.shared_parent"
_SETTLING_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_PARAM_LENGTH = 6000
_DIGEST_LENGTH = 36
_PATIENCE, _PATIENCE_AFTER_FAILURE = 60.0, 10.0
_MENDS = {
    "UNAUTHENTICATED": "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "PERMISSION_DENIED": "use a login that may do this, by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
}


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the sqlite database mlruns/mlflow.db in the project's folder.

    Raises:
        SimipuError: it holds a password, which would reach process lists, logs and reports; or, of a server, a user.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(project.root() / "mlruns" / "mlflow.db")
    if uri.startswith("http") and has_userinfo(uri):
        raise SimipuError(
            "MLFLOW_TRACKING_URI holds a login; take it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )
    if has_password(uri):
        raise SimipuError("MLFLOW_TRACKING_URI holds a password; take it out, and set PGPASSWORD for PostgreSQL.")
    return uri


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn what MLflow and its store raise into one sentence.

    Raises:
        SimipuError: the server does not answer or refuses.
    """
    try:
        with machine_errors():
            yield
    except (MlflowException, OSError) as error:
        code = error.error_code if isinstance(error, MlflowException) else None
        mend = _MENDS.get(code or "", "check MLFLOW_TRACKING_URI")
        raise SimipuError(f"MLflow at {shown_uri()} cannot be used ({_first_line(error)}); {mend}.") from None


def connect() -> MlflowClient:
    """A client of the tracking server; the folder of a sqlite store is made.

    Raises:
        SimipuError: the address cannot be used.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with mlflow_errors():
        if folder := sqlite_folder():
            folder.mkdir(parents=True, exist_ok=True)
        if "%" in f"{mlflow.__file__}{tracking_uri()}":
            mend_mlflow()
        mlflow.set_tracking_uri(tracking_uri())  # for what MLflow does without a client, and beneath it
        return MlflowClient(tracking_uri())


def check_answering() -> None:
    """See that a server is there, for people who wait: MLflow's client tries for minutes.

    Raises:
        SimipuError: the address is none, or nothing answers there.
    """
    uri = tracking_uri()
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise SimipuError(f"MLFLOW_TRACKING_URI is {uri}; write http://{uri}.")
    if uri.startswith("http"):
        place = urlsplit(uri)
        try:
            port = place.port or (443 if place.scheme == "https" else 80)
            socket.create_connection((place.hostname or "", port), _ANSWER_SECONDS).close()
        except (OSError, ValueError):
            raise SimipuError(
                f"MLflow at {shown_uri()}: nothing answers there; start it or its port-forward, or check "
                "MLFLOW_TRACKING_URI."
            ) from None


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
        folder = sqlite_folder()
        try:
            return str(client.create_experiment(name, (folder / "artifacts").as_uri() if folder else None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    return find_experiment(client, name)  # another process was faster


def sqlite_folder() -> Path | None:
    """Where the sqlite store lies; None where another one is in use."""
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).absolute().parent


class MlflowRun:
    """A run in MLflow; see :class:`simipu_core.tracking.run.Run`. Nothing here waits for the server.

    Args:
        client: client of the server.
        run_id: id of the run.
        experiment_id: id of the experiment that it is in.
        owned: ids of the runs that this process is to end; where it is killed before, the next one does.
    """

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str, owned: Sequence[str] = ()) -> None:
        self.client = client
        self.id = run_id
        self.experiment_id = experiment_id
        self.run_id: str | None = run_id
        self.page = run_page(run_id, experiment_id)
        self._outbox = Outbox(partial(deliver, client), shown_uri(), _outboxes(), owned)

    def log_params(self, params: Mapping[str, Any]) -> None:
        flat = {key: _text(value)[:_PARAM_LENGTH] for key, value in flatten(params).items()}
        self._outbox.put(Entry(run_id=self.id, kind="params", values=flat))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, *, model_id: str = "") -> None:
        now = int(time.time() * 1000)
        points = tuple((key, float(value), now, step or 0) for key, value in metrics.items())
        self._outbox.put(Entry(run_id=self.id, kind="metrics", metrics=points, model_id=model_id))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._outbox.put(Entry(run_id=self.id, kind="tags", values=dict(tags)))

    def log_file(self, path: Path, folder: str = "", name: str = "") -> None:
        self._outbox.put(file_entry(self.id, path, folder, name))

    def log_input(
        self, name: str, digest: str, context: str, *, source: str | None = None, made_by: str | None = None
    ) -> None:
        values = {"name": name, "digest": digest[:_DIGEST_LENGTH], "context": context}
        values |= {key: value for key, value in (("source", source), ("made_by", made_by)) if value}
        self._outbox.put(Entry(run_id=self.id, kind="input", values=values))

    def end(self, status: str, run_id: str | None = None) -> None:
        """Mark the run, or another one, as ended, after all that was recorded before."""
        self._outbox.put(Entry(run_id=run_id or self.id, kind="end", name=status))

    def close(self, patience: float = _PATIENCE) -> list[str]:
        """Send what waits, for at most `patience` seconds; the lines that could not be sent."""
        return self._outbox.close(patience)


@contextmanager
def step(
    name: str, experiment: str | None = None, *, out: Path | None = None, is_last: bool = False
) -> Iterator[MlflowRun]:
    """Track one step: finished when the block ends, failed with the message when it raises, killed by a signal.

    Args:
        name: name of the step, e.g. ``"pretrain"``.
        experiment: MLflow experiment of a stand-alone run; a nested run stays in its parent's.
        out: artifact that the step writes; what could not be sent to MLflow is left in it, or beside it.
        is_last: the step completes the pipeline run, so the run that its steps share ends with it.

    Raises:
        SimipuError: MLflow cannot be used when the step begins.
    """
    client = connect()
    with mlflow_errors():
        adopt_left_behind(client)
        is_own = "MLFLOW_RUN_ID" not in os.environ
        with claimed() as mark:
            made, shared = _open(client, name, experiment or TrackingConfig().mlflow_experiment, mark)
            run = MlflowRun(client, made.run_id, made.experiment_id, [made.run_id] if is_own else [])
    status = "FAILED"
    try:
        with ended_by_signal(), recorded(run.log_metrics):
            yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        status = "KILLED" if isinstance(error, StoppedError) else "FAILED"
        run.log_tags({ERROR_TAG: _first_line(error)})
        raise
    finally:
        if is_own:
            run.end(status)
        if shared and (is_last or status != "FINISHED"):
            run.end(status, shared)
        leave_unsent(run.close(_PATIENCE if status == "FINISHED" else _PATIENCE_AFTER_FAILURE), run.id, out)


def adopt_left_behind(client: MlflowClient) -> int:
    """Send what killed processes of this machine could not send to this server, and mark their runs as killed.

    Returns:
        how many processes had left something.

    Raises:
        MlflowException, OSError: the server does not answer.
    """

    def end(name: str) -> None:
        experiments = [each.experiment_id for each in client.search_experiments()]
        marked = client.search_runs(experiments, f"tags.`{MARK_TAG}` = '{name}'")
        for run_id in [run.info.run_id for run in marked] or [name]:
            end_run(run_id)

    def end_run(run_id: str) -> None:
        if client.get_run(run_id).info.status == "RUNNING":
            client.log_batch(run_id, tags=[RunTag(ERROR_TAG, "the process was killed.")])
            client.set_terminated(run_id, "KILLED")

    return adopt(_outboxes(), partial(deliver, client), end)


def claimed() -> AbstractContextManager[str]:
    """What `MARK_TAG` is to say of the run that the block makes; see :func:`simipu_core.tracking.outbox.claim`."""
    return claim(_outboxes())


def _outboxes() -> Path:
    """Where entries for this server wait."""
    return project.cache() / "tracking" / sha256_text(tracking_uri())[:16]


def _open(client: MlflowClient, name: str, experiment: str, mark: str) -> tuple[RunInfo, str | None]:
    """The step's run and, where there is one, the run that it shares with the other steps as their parent."""
    tags = _origin() | {STEP_TAG: name}
    if adopted := os.environ.get("MLFLOW_RUN_ID"):
        client.log_batch(adopted, tags=[RunTag(*tag) for tag in tags.items()])
        return client.get_run(adopted).info, None
    shared = None
    if parent := os.environ.get(PARENT_RUN_ID):
        experiment_id = client.get_run(parent).info.experiment_id
    else:
        experiment_id = find_experiment(client, experiment)
        if key := os.environ.get(PIPELINE_RUN):
            parent = shared = shared_parent(client, experiment_id, key)
            earlier = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{shared}' and tags.`{STEP_TAG}` = '{name}'"
            end_left_open(client, [experiment_id], earlier)
    if parent:
        tags[MLFLOW_PARENT_RUN_ID] = parent
    return client.create_run(experiment_id, tags=tags | {MARK_TAG: mark}, run_name=name).info, shared


def end_left_open(
    client: MlflowClient, experiments: list[str], query: str, status_of_parent: str = "KILLED"
) -> list[str]:
    """Mark as killed what still looks as if it ran, because its process was killed before it could say so.

    Args:
        client: client of the server.
        experiments: ids of the experiments to look into.
        query: which runs, none of whose processes may be alive.
        status_of_parent: what a run that steps share is marked as, instead.

    Returns:
        Names of the runs.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    left = client.search_runs(experiments, f"{query} and attributes.status = 'RUNNING'")
    for run in left:
        client.set_terminated(run.info.run_id, status_of_parent if _SHARED_TAG in run.data.tags else "KILLED")
    return [run.info.run_name for run in left]


def shared_parent(client: MlflowClient, experiment_id: str, key: str) -> str:
    """The run under which all steps of one pipeline run nest, made by whichever step comes first.

    MLflow has no "make it unless it is there": steps that begin at the same moment may each make one. All of them, and
    all later steps, then take the one with the smallest id, and the others are deleted.

    Args:
        client: client of the server.
        experiment_id: experiment of the runs.
        key: name of the pipeline run, the same for all its steps.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    found, made = _parents(client, experiment_id, key), None
    if not found:
        tags = {PIPELINE_RUN_TAG: key, REVISION_TAG: code_revision(), _SHARED_TAG: "true"}
        made = client.create_run(experiment_id, tags=tags, run_name=f"pipeline {key}").info.run_id
    if made or time.time() - found[0][1] / 1000 < _SETTLING_SECONDS:
        time.sleep(_SETTLING_SECONDS)  # until those that looked before it was there have made theirs
        found = _parents(client, experiment_id, key)
    chosen = found[0][0]
    if made not in (None, chosen):
        _discard(client, made)
    return chosen


def _discard(client: MlflowClient, run_id: str) -> None:
    try:
        client.delete_run(run_id)
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":  # a login that may not delete leaves it ended, and no parent
            raise
        client.set_tag(run_id, _SHARED_TAG, "false")
        client.set_terminated(run_id)


def _parents(client: MlflowClient, experiment_id: str, key: str) -> list[tuple[str, int]]:
    """Ids and times of making (milliseconds since 1970) of the runs made as parents, by id."""
    query = f"tags.`{PIPELINE_RUN_TAG}` = '{key}' and tags.`{_SHARED_TAG}` = 'true'"
    return sorted((run.info.run_id, run.info.start_time) for run in client.search_runs([experiment_id], query))


def _origin() -> dict[str, str]:
    """Tags that say what code in which image made a run, for which pipeline run."""
    image, pipeline_run = os.environ.get("SIMIPU_IMAGE"), os.environ.get(PIPELINE_RUN)
    tags = {REVISION_TAG: code_revision(), IMAGE_TAG: image, PIPELINE_RUN_TAG: pipeline_run}
    return {key: value for key, value in tags.items() if value}


def leave_unsent(lines: Sequence[str], run_id: str, out: Path | None = None) -> None:
    """Write what was not sent into the step's artifact, or beside it, or into build/; say how to send it.

    Args:
        lines: the entries.
        run_id: names the file in build/.
        out: the step's artifact; of one in S3 the file stays here, since S3 may be away for the same reason.
    """
    if not lines:
        return
    file = project.root() / "build" / f"{run_id}.{UNSENT}"
    if out is not None and not isinstance(out, S3Path):
        file = out / UNSENT if out.is_dir() else out.with_name(f"{out.name}.{UNSENT}")
    sentence = (
        f"MLflow at {shown_uri()} did not take all of this run; once it is back, run "
        f"`simipu tracking send {quote(str(file))}`."
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as rest:
            rest.writelines(lines)
    except OSError as error:
        sentence = f"MLflow at {shown_uri()} did not take all of this run, and {file} cannot be written ({error})."
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def run_page(run_id: str, experiment_id: str) -> str:
    """Address at which a person sees a run: below ``SIMIPU_MLFLOW_PAGE``, the server, or what ``make mlflow`` shows."""
    uri = shown_uri()
    place = redacted(os.environ.get(MLFLOW_PAGE, "")) or (uri if uri.startswith("http") else _LOCAL_PAGE)
    return f"{place.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def shown_uri() -> str:
    """The tracking URI as people may see it."""
    return redacted(tracking_uri())


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
