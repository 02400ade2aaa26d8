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
_NEW_IN_PLATFORM = {
    "resourceTtlOnCompletion": (2, 17),
    "resourceTtlOnSuccess": (2, 17),
    "resourceTtlOnFailure": (2, 17),
    "activeDeadlineSeconds": (2, 17),
}
_NEW_IN_PIPELINE = {"literals": (2, 16)}
"""Fields of the IR by the version of the server that first knows them; the parsing is strict."""
_ORPHANING = (2, 16)
"""First version that knows `propagation_policy`."""
_FINISHED = ("SUCCEEDED", "FAILED", "CANCELED")
_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "NUMBER_INTEGER": _NUMBER,
    "NUMBER_DOUBLE": _NUMBER,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
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
        kind = "type.googleapis.com/google.rpc.Status"
        inner = {"@type": kind, "code": _CODES[status], "message": message.split(": ")[-1]}
        self.body = {"code": _CODES[status], "message": message, "details": [inner]}


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


def specification(given: dict[str, Any], version: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's and the platform's part of a submitted specification, as a server of a version reads them.

    What it does not know in the pipeline it refuses; a platform's document that it does not know it drops silently.
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    pipeline: dict[str, Any] = given.get("pipeline_spec", given)
    platform: dict[str, Any] = given.get("platform_spec", {})
    try:
        parsed = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        raise Refusal(400, f"Invalid input error: invalid v2 pipeline spec: {error}") from None
    if unknown := _unknown(pipeline.get("root", {}), _NEW_IN_PIPELINE, version):
        raise Refusal(400, f'Invalid input error: invalid v2 pipeline spec: proto: unknown field "{unknown}"')
    if not parsed.pipeline_info.name or not parsed.root.dag.tasks:
        raise Refusal(400, "Invalid input error: invalid v2 pipeline spec: it has no name or no tasks")
    try:
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError:
        return pipeline, {}
    configs = [one.get("pipelineConfig", {}) for one in platform.get("platforms", {}).values()]
    return pipeline, {} if _unknown(configs, _NEW_IN_PLATFORM, version) else platform


def _unknown(data: Any, new: dict[str, tuple[int, int]], version: tuple[int, int]) -> str | None:
    """A field that the version does not know yet."""
    if isinstance(data, list):
        return next((found for item in data if (found := _unknown(item, new, version))), None)
    if not isinstance(data, dict):
        return None
    for key, value in data.items():
        if version < new.get(key, version):
            return str(key)
        if found := _unknown(value, new, version):
            return found
    return None


def check_parameters(pipeline: dict[str, Any], given: dict[str, Any]) -> None:
    """As the API server does: none that the pipeline has not, all that it requires, each of its type and choices."""
    declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in given.items():
        if name not in declared:
            raise Refusal(400, f"InvalidInputError: parameter {name} is not an input of the pipeline")
        if not isinstance(value, _KINDS[declared[name]["parameterType"]]):
            raise Refusal(400, f"InvalidInputError: input parameter {name} has the wrong type")
        if declared[name].get("literals") and value not in declared[name]["literals"]:
            said = f'input parameter "{name}" value does not match any of the allowed literal values'
            raise Refusal(400, f"InvalidInputError: {said}")
    for name, definition in declared.items():
        if name not in given and "defaultValue" not in definition and not definition.get("isOptional"):
            raise Refusal(400, f"InvalidInputError: parameter {name} is required, but is not in the runtime config")


class Backend:
    """All objects of the server.

    Args:
        folder: where runs are executed.
        namespaces: those that exist; with any, the server has several users and asks for one of them.
        environment: what the steps see, on top of this process's.

    Attributes:
        version: of the server.
        largest: bytes of a workflow above which Argo compresses its nodes.
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
        self.version = (2, 17)
        self.largest = 2**20
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
            raise Refusal(
                409,
                f"Already exist error: Failed to create it. The name {made.display_name} already exists. Please "
                "specify a new name",
            )

    def upload_version(self, query: dict[str, str], file: bytes) -> Any:
        pipeline = get(self.pipelines, query.get("pipelineid", ""), "pipeline")
        try:
            documents = [document for document in yaml.safe_load_all(file) if document]
        except yaml.YAMLError as error:
            raise Refusal(400, f"InvalidInputError: the file is no YAML: {error}") from None
        given = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        specification(given, self.version)
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

    def create_run(self, made: Any, name: str | None = None) -> Any:
        given, arguments = self._runnable(made)
        made.run_id, made.created_at = _new_id(), _now()
        made.runtime_config = made.runtime_config or kfp.V2beta1RuntimeConfig()
        pipeline, platform = specification(given, self.version)
        folder = self.folder / "runs" / made.run_id
        name = name or f"simipu-{made.run_id[:5]}"
        execution = Execution(folder, pipeline, platform, arguments, self.environment, name)
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
        check_parameters(specification(given, self.version)[0], arguments)
        return given, arguments

    def run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refusal(
                404, f"Failed to get a run: Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found"
            )
        run, execution = self.runs[run_id], self.executions[run_id]
        run.state, run.finished_at = execution.state, execution.finished_at
        run.state_history = list(execution.history)
        run.run_details = kfp.V2beta1RunDetails(task_details=execution.details(run_id, self.largest))
        return run

    def run_v1(self, run_id: str) -> dict[str, Any]:
        """The run as the older API tells it, with the workflow."""
        run = self.run(run_id)
        text, _ = self.executions[run_id].workflow(run_id).manifest(self.largest)
        known = {"id": run_id, "name": run.display_name, "status": run.state.capitalize()}
        return {"run": known, "pipeline_runtime": {"workflow_manifest": text}}

    def terminate(self, run_id: str) -> None:
        failed = f"Failed to terminate a run: Failed to terminate run {run_id}"
        if run_id not in self.runs:
            raise Refusal(404, f"{failed} due to error fetching the run: ResourceNotFoundError: Run {run_id} not found")
        execution = self.executions[run_id]
        if execution.deleted or execution.state in ("CANCELING", *_FINISHED):
            raise Refusal(400, f"{failed}: Invalid input error: Failed to terminate a run {run_id}. Row not found")
        execution.cancel()

    def delete_recurring(self, identity: str, query: dict[str, str]) -> None:
        """Delete a schedule, and with it all its workflows unless the server is told, and knows, to leave them."""
        if identity not in self.recurring:
            raise Refusal(
                404,
                f"Failed to delete a recurring run: Failed to delete recurring run {identity}. Check if exists: "
                f"ResourceNotFoundError: Job {identity} not found",
            )
        del self.recurring[identity]
        if query.get("propagation_policy") == "ORPHAN" and self.version >= _ORPHANING:
            return
        for run_id, run in self.runs.items():
            if run.recurring_run_id == identity and self.executions[run_id].state not in _FINISHED:
                self.executions[run_id].delete()

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
        number = 1 + sum(run.recurring_run_id == recurring_run_id for run in self.runs.values())
        name = f"{schedule.display_name}{recurring_run_id[:5]}-{number}-{int(recurring_run_id[:8], 16)}"
        run = kfp.V2beta1Run(
            display_name=name,
            experiment_id=schedule.experiment_id,
            pipeline_version_reference=schedule.pipeline_version_reference,
            runtime_config=schedule.runtime_config,
            recurring_run_id=recurring_run_id,
        )
        return self.create_run(run, name)

    def log(self, run_id: str, name: str) -> bytes | None:
        """Log of the pod of that node id or name, from the pod or from the archive."""
        return self.executions[run_id].log(run_id, name) if run_id in self.runs else None

    def object(self, key: str) -> bytes | None:
        """What lies in the artifacts' bucket under a key: logs of steps."""
        found = (execution.archived(run_id, key) for run_id, execution in self.executions.items())
        return next((text for text in found if text is not None), None)

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
