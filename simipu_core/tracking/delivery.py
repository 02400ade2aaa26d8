"""What a run records, as entries that can wait: to be sent now, later, or from a file by ``simipu tracking send``."""

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from pydantic import BaseModel, ConfigDict, ValidationError

from simipu_core.errors import SimipuError
from simipu_core.files import temporary_folder

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["metrics", "params", "tags", "input", "file", "end"]
_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_RETRY_PAUSES_S = (1.0, 3.0)
"""Pauses before asking again after BAD_REQUEST, seconds."""
_REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class Entry(BaseModel):
    """One thing to record. Sending it twice changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run_id: str
    kind: Kind
    metrics: tuple[tuple[str, float, int, int], ...] = ()
    """Name, value, time in milliseconds since 1970, training step."""
    model_id: str = ""
    """Logged model that the metrics belong to as well."""
    values: dict[str, str] = {}
    """Parameters or tags; of an input: name, digest, context, source and made_by."""
    name: str = ""
    """File: its path in the run. End: the run's status."""
    content: str = ""
    """File: its bytes, base64."""

    def line(self) -> str:
        """One line of JSON."""
        return self.model_dump_json(exclude_defaults=True) + "\n"


def file_entry(run_id: str, path: Path, folder: str, name: str = "") -> Entry:
    """A file as it is now."""
    place = "/".join(filter(None, (folder, name or path.name)))
    return Entry(run_id=run_id, kind="file", name=place, content=base64.b64encode(path.read_bytes()).decode())


def read_entries(file: Path) -> Iterator[Entry]:
    """Read entries back, one a line.

    Raises:
        SimipuError: the file is not there, or a line is not an entry.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Entry.model_validate_json(line)
                except ValidationError:
                    raise SimipuError(
                        f"{file}: line {number} is no tracking entry; give the file that a step named as unsent."
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SimipuError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def merged(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Join neighbours that record numbers of the same run, as far as one request holds them."""
    last: Entry | None = None
    for entry in entries:
        joins = (
            last is not None
            and last.kind == entry.kind == "metrics"
            and (last.run_id, last.model_id) == (entry.run_id, entry.model_id)
            and len(last.metrics) + len(entry.metrics) <= _METRICS_A_BATCH
        )
        if last is not None and joins:
            last = last.model_copy(update={"metrics": last.metrics + entry.metrics})
            continue
        if last is not None:
            yield last
        last = entry
    if last is not None:
        yield last


def with_retries(request: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a request that may be repeated, up to three times while the answer is BAD_REQUEST.

    MLflow gives it to what can never be stored, but also when its database loses a race or is short of connections.

    Raises:
        MlflowException, OSError: the last attempt's.
    """
    for pause in _RETRY_PAUSES_S:
        try:
            return request(*args, **kwargs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            time.sleep(pause)
    return request(*args, **kwargs)


def deliver(client: MlflowClient, entry: Entry) -> None:
    """Send one entry.

    Raises:
        MlflowException, OSError: it did not arrive; :func:`is_refusal` tells whether trying again can help.
    """
    with_retries(_deliver, client, entry)


def _deliver(client: MlflowClient, entry: Entry) -> None:
    if entry.kind == "metrics":
        for begin in range(0, len(entry.metrics), _METRICS_A_BATCH):
            part = entry.metrics[begin : begin + _METRICS_A_BATCH]
            metrics = [Metric(*metric, model_id=entry.model_id or None) for metric in part]
            client.log_batch(entry.run_id, metrics=metrics)
    elif entry.kind == "params":
        items = list(entry.values.items())
        for begin in range(0, len(items), _PARAMS_A_BATCH):
            client.log_batch(entry.run_id, params=[Param(*item) for item in items[begin : begin + _PARAMS_A_BATCH]])
    elif entry.kind == "tags":
        client.log_batch(entry.run_id, tags=[RunTag(*item) for item in entry.values.items()])
    elif entry.kind == "input":
        client.log_inputs(entry.run_id, [_input(entry.values)])
    elif entry.kind == "file":
        _send_file(client, entry)
    else:
        client.set_terminated(entry.run_id, entry.name)


def _input(values: Mapping[str, str]) -> DatasetInput:
    source: dict[str, Any] = {"uri": values.get("source") or values["name"]}
    dataset = Dataset(values["name"], values["digest"], source_type="local", source=json.dumps(source))
    tags = [InputTag(MLFLOW_DATASET_CONTEXT, values["context"])]
    if values.get("made_by"):
        tags.append(InputTag("simipu.made_by_run", values["made_by"]))
    return DatasetInput(dataset, tags)


def _send_file(client: MlflowClient, entry: Entry) -> None:
    folder, _, name = entry.name.rpartition("/")
    with temporary_folder("tracking") as place:
        file = place / name
        file.write_bytes(base64.b64decode(entry.content))
        client.log_artifact(entry.run_id, str(file), folder or None)


def is_refusal(error: Exception) -> bool:
    """Whether the server understood and said no, so that sending the same again is of no use.

    A proxy that answers in the place of a server that is down, a database that is away and credentials that expired
    are no refusals.
    """
    if not isinstance(error, MlflowException) or error.error_code not in _REFUSALS:
        return False
    return isinstance(error, RestException) or "API request to" not in str(error)
