"""The Argo workflow that executes a run: its nodes as Argo makes them, and what Kubeflow's API tells of these.

Kubeflow merges a retry strategy into every template, so each node of a step stands below wrappers: ``STEP`` of type
Retry, ``STEP(0)`` of type DAG, ``executor`` of type Retry, ``executor(0)`` of type Pod.
"""

import base64
import gzip
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kfp_server_api as kfp

DRIVER, STEP, POD = (
    "system-container-driver",
    "metadata-0-1-retry-system-container-executor",
    "metadata-0-1-retry-system-container-impl",
)
CONTROLLER_RETRY = {"limit": "2", "retryPolicy": "OnError"}
CONTROLLER_TTL = {"secondsAfterSuccess": 3600, "secondsAfterFailure": 3600}
"""What Kubeflow's own configuration of Argo merges into every workflow."""
_STATES = {"Pending": "PENDING", "Running": "RUNNING", "Succeeded": "SUCCEEDED", "Failed": "FAILED", "Error": "FAILED"}
_NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class Task:
    """How a step went."""

    phase: str
    begin: datetime
    end: datetime | None = None
    cached: bool = False
    message: str = ""
    """What Kubernetes says about its pod."""
    lost: tuple[tuple[datetime, datetime], ...] = ()
    """Begin and end of earlier attempts, whose pods were deleted."""


@dataclass(frozen=True)
class Workflow:
    """A workflow at one moment."""

    name: str
    run_id: str
    namespace: str
    phase: str
    begin: datetime
    end: datetime | None
    spec: Mapping[str, Any]
    """The pipeline's specification."""
    platform: Mapping[str, Any]
    """Settings of the platform that the server has understood."""
    tasks: Mapping[str, Task]
    """Those that have begun, by key."""
    logs_at: str = "minio://mlpipeline/v2/artifacts"
    task_ids: dict[str, str] = field(default_factory=dict)
    """Kubeflow's ids of nodes, which it draws at random."""

    def pods(self) -> Iterator[tuple[str, str, str]]:
        """Key, node id and name of each step's pod."""
        for key, task in self.tasks.items():
            for attempt in range(0 if task.cached else len(task.lost) + 1):
                identity = self._id(f"{self.name}(0).root(0).{key}(0).executor({attempt})")
                yield key, identity, f"{self.name}-{POD}-{identity.removeprefix(self.name + '-')}"

    def log_key(self, key: str) -> str:
        """Where in the bucket the launcher leaves the log of a step."""
        return f"v2/artifacts/simipu/{self.run_id}/{key}/executor-logs-0"

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Argo's nodes by id."""
        made = list(self._nodes())
        return {node["id"]: node for node in made}

    def manifest(self, largest: int) -> tuple[str, bool]:
        """The workflow as JSON, and whether its nodes had to be compressed, being larger than `largest` bytes."""
        status: dict[str, Any] = {"phase": self.phase, "startedAt": _time(self.begin), "finishedAt": _time(self.end)}
        nodes = self.nodes()
        whole = {
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": {"pipeline/runid": self.run_id},
                "annotations": {"workflows.argoproj.io/pod-name-format": "v2"},
            },
            "spec": self._spec(),
            "status": {**status, "nodes": nodes},
        }
        text = json.dumps(whole)
        if len(text) <= largest:
            return text, False
        packed = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
        return json.dumps({**whole, "status": {**status, "compressedNodes": packed}}), True

    def details(self) -> list[Any]:
        """The nodes as Kubeflow's API reports them: without types, messages and ids of their own."""
        return [
            kfp.V2beta1PipelineTaskDetail(
                run_id=self.run_id,
                task_id=self.task_ids.setdefault(node["id"], str(uuid.uuid4())),
                display_name=node["displayName"],
                create_time=_time(self.begin),
                start_time=node["startedAt"],
                end_time=node["finishedAt"] or _NEVER,
                state="SKIPPED" if node["phase"] == "Skipped" else _STATES.get(node["phase"]),
                child_tasks=[kfp.PipelineTaskDetailChildTask(pod_name=child) for child in node.get("children", ())],
            )
            for node in self.nodes().values()
        ]

    def _spec(self) -> dict[str, Any]:
        kubernetes = self.platform.get("platforms", {}).get("kubernetes", {})
        config = kubernetes.get("pipelineConfig", {})
        ttl = {
            "secondsAfterCompletion": config.get("resourceTtlOnCompletion"),
            "secondsAfterSuccess": config.get("resourceTtlOnSuccess"),
            "secondsAfterFailure": config.get("resourceTtlOnFailure"),
        }
        stated = {name: int(seconds) for name, seconds in ttl.items() if seconds}
        executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
        parameters = [{"name": "components-root", "value": json.dumps(self.spec["root"])}]
        for label, settings in executors.items():
            name = f"kubernetes-comp-{label.removeprefix('exec-')}"
            parameters.append({"name": name, "value": json.dumps(settings)})
        return {
            "entrypoint": "entrypoint",
            "arguments": {"parameters": parameters},
            "ttlStrategy": {**CONTROLLER_TTL, **stated},
            "templateDefaults": {"retryStrategy": CONTROLLER_RETRY},
        }

    @property
    def _late(self) -> str:
        """What Argo says of the nodes that it tries no more, as the run was cancelled."""
        return f"retry exceeded workflow deadline {self.begin.astimezone(UTC):%Y-%m-%d %H:%M:%S} +0000 UTC"

    def _nodes(self) -> Iterator[dict[str, Any]]:
        whole, root = f"{self.name}(0)", f"{self.name}(0).root(0)"
        late = self._late if any(task.message.endswith("(exit code 143)") for task in self.tasks.values()) else ""
        yield self._node(self.name, "Retry", "entrypoint", self.phase, [whole], message=late)
        yield self._node(whole, "DAG", "entrypoint", self.phase, [f"{whole}.root-driver"])
        yield from self._driver(whole, "root", "system-dag-driver", self.begin, f"{whole}.root")
        yield self._node(f"{whole}.root", "Retry", "root", self.phase, [root], within=whole, message=late)
        tasks: dict[str, Any] = self.spec["root"]["dag"]["tasks"]
        first = [f"{root}.{key}-driver" for key, task in tasks.items() if not task.get("dependentTasks")]
        yield self._node(root, "DAG", "root", self.phase, first, within=whole)
        for key in tasks:
            after = [f"{root}.{other}-driver" for other, task in tasks.items() if key in task.get("dependentTasks", ())]
            if key in self.tasks:
                yield from self._step(root, key, self.tasks[key], after)
            elif self.end is not None:
                yield self._omitted(f"{root}.{key}-driver", DRIVER, root, [f"{root}.{key}"])
                yield self._omitted(f"{root}.{key}", STEP, root, after)

    def _step(self, root: str, key: str, task: Task, after: list[str]) -> Iterator[dict[str, Any]]:
        wrapper, attempt = f"{root}.{key}", f"{root}.{key}(0)"
        executor = f"{attempt}.executor"
        yield from self._driver(root, key, DRIVER, task.begin, wrapper)
        within = "Running" if task.phase == "Pending" else task.phase
        times = (task.lost[0][0] if task.lost else task.begin, task.end)
        late = self._late if task.message.endswith("(exit code 143)") else ""
        yield self._node(wrapper, "Retry", STEP, within, [attempt], root, *times, message=late)
        yield self._node(attempt, "DAG", STEP, within, [executor, *after], root, *times)
        if task.cached:
            said = "when 'true != true' evaluated false"
            yield self._node(executor, "Skipped", POD, "Skipped", [], attempt, *times, message=said)
            return
        inputs = {"parameters": [{"name": "pod-spec-patch", "value": self._patch(key)}]}
        about = late or ("" if task.phase == "Pending" else task.message)
        pods = [f"{executor}({number})" for number in range(len(task.lost) + 1)]
        yield self._node(executor, "Retry", POD, within, pods, attempt, *times, message=about, inputs=inputs)
        for pod, (begin, end) in zip(pods, task.lost, strict=False):
            yield self._node(pod, "Pod", POD, "Error", [], attempt, begin, end, message="pod deleted", inputs=inputs)
        own = (task.begin, task.end)
        yield self._node(pods[-1], "Pod", POD, task.phase, [], attempt, *own, message=task.message, inputs=inputs)

    def _patch(self, key: str) -> str:
        address = f"{self.logs_at.removesuffix('v2/artifacts')}{self.log_key(key).removesuffix('-0')}"
        logs = {"executor-logs": {"artifacts": [{"name": "executor-logs", "uri": address}]}}
        command = ["/kfp-launcher/launch", "--executor_input", json.dumps({"outputs": {"artifacts": logs}})]
        return json.dumps({"containers": [{"name": "main", "command": command}]})

    def _driver(self, within: str, key: str, template: str, at: datetime, then: str) -> Iterator[dict[str, Any]]:
        name = f"{within}.{key}-driver"
        yield self._node(name, "Retry", template, "Succeeded", [f"{name}(0)"], within, at, at)
        yield self._node(f"{name}(0)", "Pod", template, "Succeeded", [then], within, at, at)

    def _omitted(self, name: str, template: str, within: str, after: list[str]) -> dict[str, Any]:
        said = "omitted: depends condition not met"
        return self._node(name, "Skipped", template, "Omitted", after, within, self.end, self.end, message=said)

    def _node(
        self,
        name: str,
        kind: str,
        template: str,
        phase: str,
        children: list[str],
        within: str = "",
        begin: datetime | None = None,
        end: datetime | None = None,
        message: str = "",
        inputs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        node = {
            "id": self._id(name),
            "name": name,
            "displayName": name.rsplit(".", 1)[-1],
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": _time(begin or self.begin),
            "finishedAt": _time(end if begin else self.end),
            "children": [self._id(child) for child in children],
        }
        more = {"message": message, "boundaryID": self._id(within) if within else "", "inputs": inputs}
        return node | {key: value for key, value in more.items() if value}

    def _id(self, name: str) -> str:
        """Argo's: the workflow's name and the FNV-1a hash of the node's."""
        if name == self.name:
            return name
        value = 0x811C9DC5
        for byte in name.encode():
            value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
        return f"{self.name}-{value}"


def _time(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None
