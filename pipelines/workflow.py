"""The Argo workflow of a run: which pods each step has had, how they went, and what Kubernetes said about them.

Kubeflow's own list of tasks has neither types nor messages, and stands still once a workflow is larger than Argo keeps
uncompressed; the workflow's manifest tells all. A node's name is its path, each part with the number of the attempt:
``NAME(0).root(0).pretrain(1).executor(0)``. Where nothing is tried again the numbers are missing.
"""

import base64
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, model_validator

from pipelines.answers import Part, read_json

TaskPath = tuple[str, ...]
"""Keys of tasks from the root of the pipeline to a step."""
_PART = re.compile(r"(.*?)(?:\((\d+)\))?")
_DRIVER, _EXECUTOR = "-driver", "executor"
_STARTING = ("PodInitializing", "ContainerCreating")
_WITHOUT_MEANING = ("No more retries left", "retry exceeded workflow deadline", "Backoff for")
_EXIT_CODE = re.compile(r"(?:main: )?Error \(exit code (\d+)\)")
_SIGNALS = {"137": "it was killed (exit code 137)", "143": "it was stopped by SIGTERM (exit code 143)"}
_LONGEST = 300


class StoredLog(NamedTuple):
    """Where the launcher has put the log of a pod."""

    scheme: str
    bucket: str
    key: str
    provider: str
    """Kubeflow's description of the object store; empty for its own."""


class Pod(NamedTuple):
    """A pod of a step."""

    node_id: str
    name: str
    namespace: str
    phase: str
    """Argo's: Pending, Running, Succeeded, Failed, Error, Skipped or Omitted."""
    said: str | None
    """What Kubernetes or Argo says about it, where that tells more than its log."""
    begin: datetime | None
    end: datetime | None
    log: StoredLog | None = None


class _Node(Part):
    """What Argo knows of one node; it leaves out what is empty, as the phase of one not begun."""

    id: str = ""
    name: str
    type: str = ""
    phase: str = "Pending"
    message: str = ""
    template_name: str = ""
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)


class _Metadata(Part):
    name: str
    namespace: str = ""
    annotations: dict[str, str] = Field(default_factory=dict)


class _Status(Part):
    nodes: dict[str, _Node] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _unpacked(cls, given: Any) -> Any:
        """With the nodes that Argo keeps compressed as soon as they are many, and in a database when they are more."""
        if isinstance(given, dict) and (packed := given.get("compressedNodes")):
            return {**given, "nodes": read_json(gzip.decompress(base64.b64decode(packed)))}
        if isinstance(given, dict) and given.get("offloadNodeStatusVersion") and not given.get("nodes"):
            raise ValueError("its nodes are elsewhere")
        return given


class _Parameter(Part):
    name: str = ""
    value: str = "{}"


class _Arguments(Part):
    parameters: tuple[_Parameter, ...] = ()


class _Spec(Part):
    arguments: _Arguments = _Arguments()


class _Manifest(Part):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


class Workflow:
    """A workflow as it is now.

    Args:
        manifest: the resource, of kind Workflow.

    Raises:
        ValueError: it is none, or its nodes are not in it.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        known = _Manifest.model_validate(manifest)
        self.name = known.metadata.name
        self.namespace = known.metadata.namespace
        self._old_names = known.metadata.annotations.get("workflows.argoproj.io/pod-name-format") == "v1"
        self._parameters = known.spec.arguments.parameters
        self._by_path: dict[TaskPath, list[tuple[tuple[int, ...], _Node]]] = {}
        for node in known.status.nodes.values():
            path, attempt = self._parse(node.name)
            self._by_path.setdefault(path, []).append((attempt, node))
        for nodes in self._by_path.values():
            nodes.sort(key=lambda one: one[0])

    @classmethod
    def read(cls, text: str | bytes) -> "Workflow | None":
        """The workflow of a manifest; None where the text is none, or does not hold the nodes."""
        try:
            return cls(read_json(text))
        except (ValueError, TypeError, OSError, EOFError, zlib.error):
            return None

    @cached_property
    def root(self) -> Any:
        """The pipeline's root component, of which the server makes a parameter of the workflow; None without it."""
        text = next((one.value for one in self._parameters if one.name == "components-root"), "")
        try:
            return read_json(text)
        except ValueError:
            return None

    def pods(self, path: TaskPath) -> list[Pod]:
        """Pods of a step, one for each attempt, the last one last; one from the cache is a pod that was skipped."""
        nodes = self._by_path.get((*path, _EXECUTOR), [])
        wrappers = {attempt[:-1]: node for attempt, node in nodes if node.type == "Retry"}
        pods = [(attempt[:-1], node) for attempt, node in nodes if node.type in ("Pod", "Skipped")]
        last = dict(pods)  # of those below one wrapper
        return [self._pod(node, wrappers.get(key) if last[key] is node else None) for key, node in pods]

    def drivers(self, path: TaskPath) -> list[Pod]:
        """Pods that resolve the inputs of a step and ask the cache, before its own."""
        key = (*path[:-1], path[-1] + _DRIVER)
        return [self._pod(node) for node in self._at(key) if node.type in ("Pod", "Skipped")]

    def goes_on(self, path: TaskPath) -> bool:
        """Whether Argo still does something about a step, as it may try it again."""
        nodes = self._at(path)
        return any(node.phase in ("Running", "Pending") for node in nodes)

    def _at(self, path: TaskPath) -> list[_Node]:
        return [node for _, node in self._by_path.get(path, [])]

    def _parse(self, name: str) -> tuple[TaskPath, tuple[int, ...]]:
        """Path below the root, and numbers of the attempts on the way."""
        parts = [_PART.fullmatch(part) for part in name.removeprefix(self.name).split(".")]
        found = [(part[1], int(part[2] or 0)) for part in parts if part]
        keys = [key for key, _ in found]
        return tuple(keys[2:] if keys[1:2] == ["root"] else keys[1:]), tuple(number for _, number in found)

    def _pod(self, node: _Node, wrapper: _Node | None = None) -> Pod:
        identity = node.id
        number = identity.removeprefix(f"{self.name}-")
        is_pod = node.type == "Pod"
        causes = [cause for one in (node, wrapper) if one and (cause := self._cause_of(one))] if is_pod else []
        return Pod(
            node_id=identity,
            name=identity if self._old_names else f"{self.name}-{node.template_name}-{number}",
            namespace=self.namespace,
            phase=node.phase,
            said="; ".join(dict.fromkeys(causes)) or None,
            begin=node.started_at,
            end=node.finished_at,
            log=_stored_log(node) if is_pod else None,
        )

    def _cause_of(self, node: _Node) -> str | None:
        return _cause(node.message, self.namespace)


def _cause(message: str, namespace: str) -> str | None:
    """What a message of Kubernetes or Argo means; None where the log of the pod tells more."""
    text = " ".join(message.split()).removeprefix("main: ")
    if not text or text in _STARTING or text.startswith(_WITHOUT_MEANING):
        return None
    if code := _EXIT_CODE.fullmatch(text):
        return _SIGNALS.get(code[1])
    if text.startswith("OOMKilled"):
        return "OOMKilled: it needed more memory than its limit; raise memory_limit in cluster.yaml"
    if "longer than the specified deadline" in text:
        return f"{text}; raise timeout in cluster.yaml"
    if volume := re.fullmatch(r'Usage of EmptyDir volume "(\w+)" exceeds the limit "(\w+)"\.?', text):
        return f"{text.rstrip('.')}; raise {volume[1]} in cluster.yaml"
    if text == "pod deleted":
        return "its pod was deleted: the node was lost or drained, or somebody deleted it"
    if text.startswith("CreateContainerConfigError") and text.endswith("not found"):
        return f"{text} in namespace {namespace}"
    if invalid := re.fullmatch(r'Pod "\S+" is invalid: (.*)', text):
        text = f"its pod is invalid: {invalid[1]}"
    elif errored := re.fullmatch(r"task '\S+' errored: (.*)", text):
        text = errored[1]
    text = re.split(r" no new claims to deallocate| preemption: |: failed to resolve reference", text)[0].rstrip(" ,")
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " …"


def _stored_log(node: _Node) -> StoredLog | None:
    """Where the launcher was told to put the log; it adds the number of the attempt."""
    try:
        patch = next(one["value"] for one in node.inputs["parameters"] if one["name"] == "pod-spec-patch")
        command = read_json(patch)["containers"][0]["command"]
        task = read_json(command[command.index("--executor_input") + 1])
        (artifact,) = task["outputs"]["artifacts"]["executor-logs"]["artifacts"]
        address = urlsplit(artifact["uri"])
        provider = next(_sessions(task.get("inputs", {}).get("artifacts", {})), "")
    except (LookupError, ValueError, StopIteration, TypeError, AttributeError):
        return None
    number = _PART.fullmatch(node.name.rsplit(".", 1)[-1])
    attempt = number[2] if number and number[2] else "0"
    return StoredLog(address.scheme, address.netloc, f"{address.path.lstrip('/')}-{attempt}", provider)


def _sessions(artifacts: Mapping[str, Any]) -> Iterator[str]:
    for given in artifacts.values():
        for artifact in given.get("artifacts", []):
            if session := artifact.get("metadata", {}).get("store_session_info"):
                yield str(session)
