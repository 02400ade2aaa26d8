"""What the Kubeflow Pipelines API server knows and does: its objects and rules, and runs that are really executed."""

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as kfp
import yaml

from tests.kfp_run import Execution

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}
_KINDS = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
_SET_BY_SERVER = {
    "V2beta1Run": {"run_id", "state", "created_at", "finished_at", "run_details", "error", "state_history"},
    "V2beta1RecurringRun": {"recurring_run_id", "created_at", "updated_at", "status", "error"},
    "V2beta1Experiment": {"experiment_id", "created_at", "storage_state"},
    "V2beta1Pipeline": {"pipeline_id", "created_at", "error"},
}


class Refusal(Exception):  # noqa: N818
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, "code": _CODES[status], "message": message, "details": []}


def parse(text: bytes, model: str) -> Any:
    """A request's body as a model of the API; keys that it does not have, or that only the server sets, are refused."""
    try:
        data = json.loads(text)
        _check(data, model)
        return kfp.ApiClient().deserialize(SimpleNamespace(data=text), model)
    except (ValueError, AttributeError, TypeError) as error:
        raise Refusal(400, f"InvalidInputError: the body is no {model}: {error}") from None


def _check(data: Any, kind: str, path: str = "") -> None:
    if kind.startswith("list["):
        for item in data:
            _check(item, kind[5:-1], path)
        return
    model = getattr(kfp.models, kind, None)
    if model is None:
        return
    if not model.openapi_types:
        if data not in model.allowable_values:
            raise ValueError(f"{path}: {data} is none of {model.allowable_values}")
        return
    if not isinstance(data, dict):
        raise TypeError(f"{path}: {type(data).__name__} instead of {kind}")
    names = {given: name for name, given in model.attribute_map.items()}
    for key, value in data.items():
        if key not in names or (not path and key in _SET_BY_SERVER.get(kind, ())):
            raise ValueError(f"unknown field {path}{key}")
        _check(value, model.openapi_types[names[key]], f"{path}{key}.")


def specification(given: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's part of a submitted specification, both parts checked against the IR's own definition."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    pipeline: dict[str, Any] = given.get("pipeline_spec", given)
    try:
        parsed = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(given.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refusal(400, f"InvalidInputError: Failed to parse the PipelineSpec: {error}") from None
    if not parsed.pipeline_info.name or not parsed.root.dag.tasks:
        raise Refusal(400, "InvalidInputError: the pipeline spec has no name or no tasks")
    return pipeline


def check_parameters(pipeline: dict[str, Any], given: dict[str, Any]) -> None:
    """As the API server does: no parameter that the pipeline has not, all that it requires, each of its type."""
    declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in given.items():
        if name not in declared:
            raise Refusal(400, f"InvalidInputError: parameter {name} is not an input of the pipeline")
        if not isinstance(value, _KINDS[declared[name]["parameterType"]]):
            raise Refusal(400, f"InvalidInputError: input parameter {name} has the wrong type")
    for name, definition in declared.items():
        if name not in given and "defaultValue" not in definition and not definition.get("isOptional"):
            raise Refusal(400, f"InvalidInputError: parameter {name} is required, but is not in the runtime config")


class Backend:
    """All objects of the server.

    Args:
        folder: where runs are executed.
        namespaces: those that exist; with any, the server has several users and asks for one of them.
        environment: what the steps see, on top of this process's.
    """

    def __init__(
        self, folder: Path, namespaces: set[str] | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.namespaces = namespaces or set()
        self.environment = environment or {}
        self.experiments: dict[str, Any] = {}
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.recurring: dict[str, Any] = {}
        self.executions: dict[str, Execution] = {}
        self.lock = threading.RLock()

    def close(self) -> None:
        for execution in self.executions.values():
            execution.kill()

    def check_namespace(self, namespace: str | None) -> None:
        if not self.namespaces:
            if namespace:
                raise Refusal(400, "InvalidInputError: In single-user mode, a namespace cannot be given")
        elif not namespace:
            raise Refusal(400, "InvalidInputError: A namespace is required in multi-user mode")
        elif namespace not in self.namespaces:
            raise Refusal(403, f"PermissionDenied: User 'ada' is not authorized in namespace {namespace}")

    def create_experiment(self, made: Any) -> Any:
        self.check_namespace(made.namespace)
        self._unique(self.experiments, made)
        made.experiment_id, made.created_at, made.storage_state = _new_id(), _now(), "AVAILABLE"
        self.experiments[made.experiment_id] = made
        return made

    def create_pipeline(self, made: Any) -> Any:
        if made.namespace:
            self.check_namespace(made.namespace)
        self._unique(self.pipelines, made)
        made.pipeline_id, made.created_at = _new_id(), _now()
        self.pipelines[made.pipeline_id] = made
        return made

    def upload_pipeline(self, query: dict[str, str], file: bytes) -> Any:
        """A pipeline and its first version, which has the same name."""
        name = query.get("name")
        described = {"name": name, "display_name": name, "description": query.get("description")}
        made = self.create_pipeline(kfp.V2beta1Pipeline(**described, namespace=query.get("namespace")))
        self.upload_version({"pipelineid": made.pipeline_id, "name": made.name}, file)
        return made

    def _unique(self, known: dict[str, Any], made: Any) -> None:
        if not made.display_name:
            raise Refusal(400, "InvalidInputError: the name is empty")
        if any(one.display_name == made.display_name for one in known.values()):
            raise Refusal(409, f"AlreadyExistError: the name {made.display_name} already exists")

    def upload_version(self, query: dict[str, str], file: bytes) -> Any:
        pipeline = get(self.pipelines, query.get("pipelineid", ""), "pipeline")
        try:
            documents = [document for document in yaml.safe_load_all(file) if document]
        except yaml.YAMLError as error:
            raise Refusal(400, f"InvalidInputError: the file is no YAML: {error}") from None
        given = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        specification(given)
        name = query.get("name")
        taken = {one.display_name for one in self.versions.values() if one.pipeline_id == pipeline.pipeline_id}
        if not name or name in taken:
            raise Refusal(409 if name else 400, f"AlreadyExistError: the version {name} already exists, or has no name")
        version = kfp.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id,
            pipeline_version_id=_new_id(),
            name=name,
            display_name=name,
            description=query.get("description"),
            created_at=_now(),
            pipeline_spec=given,
        )
        self.versions[version.pipeline_version_id] = version
        return version

    def create_run(self, made: Any) -> Any:
        given, arguments = self._runnable(made)
        made.run_id, made.created_at = _new_id(), _now()
        folder = self.folder / "runs" / made.run_id
        execution = Execution(folder, specification(given), arguments, self.environment)
        with self.lock:
            self.runs[made.run_id], self.executions[made.run_id] = made, execution
        return self.run(made.run_id)

    def _runnable(self, made: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The specification and the parameters of a run or schedule, checked."""
        if not made.display_name:
            raise Refusal(400, "InvalidInputError: the run name is empty")
        get(self.experiments, made.experiment_id or "", "experiment")
        reference = made.pipeline_version_reference
        if (made.pipeline_spec is None) == (reference is None):
            raise Refusal(400, "InvalidInputError: give either a pipeline spec or a pipeline version")
        given = made.pipeline_spec
        if reference is not None:
            version = get(self.versions, reference.pipeline_version_id or "", "pipeline version")
            if version.pipeline_id != reference.pipeline_id:
                raise Refusal(400, "InvalidInputError: the version is of another pipeline")
            given = version.pipeline_spec
        arguments = (made.runtime_config and made.runtime_config.parameters) or {}
        check_parameters(specification(given), arguments)
        return given, arguments

    def run(self, run_id: str) -> Any:
        run = get(self.runs, run_id, "run")
        execution = self.executions[run_id]
        run.state, run.finished_at = execution.state, execution.finished_at
        run.run_details = kfp.V2beta1RunDetails(task_details=execution.details(run_id))
        return run

    def terminate(self, run_id: str) -> None:
        if self.run(run_id).state in ("SUCCEEDED", "FAILED", "CANCELED"):
            raise Refusal(400, f"InvalidInputError: the run {run_id} has finished and cannot be terminated")
        self.executions[run_id].cancel()

    def create_recurring(self, made: Any) -> Any:
        self._runnable(made)
        trigger = made.trigger
        cron = trigger and trigger.cron_schedule and trigger.cron_schedule.cron
        every = trigger and trigger.periodic_schedule and trigger.periodic_schedule.interval_second
        if bool(cron) == bool(every) or (cron and len(cron.split()) != 6) or (every and int(every) < 1):
            raise Refusal(400, "InvalidInputError: Schedule cron is not a supported format, or the interval is invalid")
        if not 1 <= int(made.max_concurrency or 0) <= 10:
            raise Refusal(400, "InvalidInputError: Max concurrency must be at least 1 and at most 10")
        made.recurring_run_id, made.created_at = _new_id(), _now()
        made.status = "ENABLED" if made.mode == "ENABLE" else "DISABLED"
        self.recurring[made.recurring_run_id] = made
        return made

    def fire(self, recurring_run_id: str) -> Any:
        """Start the run of a schedule, as its controller does when the time has come."""
        schedule = self.recurring[recurring_run_id]
        run = kfp.V2beta1Run(
            display_name=f"{schedule.display_name} 1",
            experiment_id=schedule.experiment_id,
            pipeline_version_reference=schedule.pipeline_version_reference,
            runtime_config=schedule.runtime_config,
            recurring_run_id=recurring_run_id,
        )
        return self.create_run(run)

    def log(self, run_id: str, pod: str) -> bytes | None:
        get(self.runs, run_id, "run")
        return self.executions[run_id].log(run_id, pod)

    def listed(self, known: dict[str, Any], field: str, query: dict[str, str], **equal: str | None) -> dict[str, Any]:
        """One page of those that fit the filter."""
        found = [one for one in known.values() if all(getattr(one, name) == value for name, value in equal.items())]
        for key, value in _predicates(query.get("filter", "")):
            found = [one for one in found if getattr(one, key) == value]
        match query.get("sort_by", "").split():
            case [] | ["created_at"]:
                pass
            case ["created_at", "desc"]:
                found.reverse()
            case order:
                raise Refusal(400, f"InvalidInputError: cannot sort by {order}")
        begin, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        page: dict[str, Any] = {field: found[begin : begin + size], "total_size": len(found)}
        if begin + size < len(found):
            page["next_page_token"] = str(begin + size)
        return page


def get(known: dict[str, Any], identity: str, kind: str) -> Any:
    if identity not in known:
        raise Refusal(404, f"ResourceNotFoundError: {kind} {identity} not found")
    return known[identity]


def _predicates(text: str) -> Iterator[tuple[str, str]]:
    if not text:
        return
    plain = text.replace('"stringValue"', '"string_value"')  # protobuf's JSON has two forms of names and of enums
    plain = plain.replace('"operation": 1', '"operation": "EQUALS"')
    for predicate in parse(plain.encode(), "V2beta1Filter").predicates:
        if predicate.operation != "EQUALS" or predicate.key not in ("display_name", "name"):
            raise Refusal(400, f"InvalidInputError: cannot filter by {predicate.key}")
        yield predicate.key, predicate.string_value


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(UTC)
