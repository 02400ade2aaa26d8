"""How the steps of a run on Kubeflow stand, read from the nodes that the API server reports.

Kubeflow runs a step as several nodes of an Argo workflow: ``STEP-driver`` resolves its inputs and asks the cache,
then ``STEP`` holds the pod ``executor`` (``executor(0)``, ``executor(1)`` … with retries), which a step from the cache
skips.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

FINISHED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
"""States that a run does not leave."""
_EXECUTOR = re.compile(r"executor(\(\d+\))?")
_ROOT = "root"
_DRIVER = "-driver"


class StepState(NamedTuple):
    """One step of a run."""

    name: str
    state: str
    """``waiting``, ``running``, ``succeeded``, ``cached``, ``failed``, ``canceled`` …"""
    seconds: float | None = None
    pods: tuple[str, ...] = ()
    """Pods whose log may hold the cause of a failure, the likeliest first."""
    error: str | None = None
    """What the API server says about a failure."""


def steps(run: Any) -> list[StepState]:
    """The run's steps in the order in which they can run.

    Args:
        run: ``V2beta1Run``.
    """
    nodes = _Nodes((run.run_details and run.run_details.task_details) or [])
    names = _names(run.pipeline_spec or {})
    seen = [name for name in nodes.by_name if nodes.is_step(name) and name not in names]
    over = run.state in FINISHED
    return [nodes.state(key, names.get(key, key), over) for key in (*names, *seen)]


def duration(begin: datetime | None, end: datetime | None, running: bool) -> float | None:
    """Seconds from one time to the other, or until now; None where a time is missing, which the API tells as 1970."""
    if begin is None or begin.year < 2000:
        return None
    if end is None or end.year < 2000:
        if not running:
            return None
        end = datetime.now(UTC)
    return max(0.0, (end - begin).total_seconds())


def _names(specification: Mapping[str, Any]) -> dict[str, str]:
    """Display names of the pipeline's own steps by their keys, sorted by their dependence."""
    pipeline = specification.get("pipeline_spec") or specification
    tasks: dict[str, Any] = pipeline.get("root", {}).get("dag", {}).get("tasks", {})
    order = TopologicalSorter({key: task.get("dependentTasks", []) for key, task in sorted(tasks.items())})
    return {key: tasks[key].get("taskInfo", {}).get("name", key) for key in order.static_order() if key in tasks}


class _Nodes:
    """The workflow's nodes, which know their children by node id and are themselves known by pod name.

    Both end in the same hash.
    """

    def __init__(self, details: list[Any]) -> None:
        self.by_name = {node.display_name: node for node in details if node.display_name}
        self._by_hash = {
            _hash(node.pod_name or node.task_id): node for node in details if node.pod_name or node.task_id
        }

    def is_step(self, name: str) -> bool:
        return name != _ROOT and not name.endswith(_DRIVER) and not _EXECUTOR.fullmatch(name)

    def state(self, key: str, name: str, over: bool) -> StepState:
        node, driver = self.by_name.get(key), self.by_name.get(key + _DRIVER)
        if driver is not None and driver.state == "FAILED":
            return StepState(name, "failed", _seconds(driver), tuple(_pod(driver)), _error(driver))
        if node is None:
            state = "not run" if over else "running" if driver is not None else "waiting"
            return StepState(name, state, _seconds(driver) if driver is not None else None)
        state = str(node.state or "RUNTIME_STATE_UNSPECIFIED").removeprefix("RUNTIME_STATE_").lower()
        executors = list(self._executors(node))
        if state == "succeeded" and executors and all(one.state == "SKIPPED" for one in executors):
            state = "cached"
        if state != "failed":
            return StepState(name, state, _seconds(node))
        worst = sorted(executors, key=lambda one: (one.state == "FAILED", one.display_name), reverse=True)
        pods = [pod for one in worst for pod in _pod(one)] or list(_pod(node))
        unknown = [child.pod_name for child in node.child_tasks or [] if child.pod_name]
        error = next((said for one in (*worst, node) if (said := _error(one))), None)
        return StepState(name, state, _seconds(node), tuple(dict.fromkeys([*pods, *unknown])), error)

    def _executors(self, node: Any) -> Iterator[Any]:
        for child in node.child_tasks or []:
            below = self._by_hash.get(_hash(child.pod_name or child.task_id or ""))
            if below is None or not _EXECUTOR.fullmatch(below.display_name or ""):
                continue
            attempts = list(self._executors(below))
            yield from attempts or [below]


def _hash(name: str) -> str:
    return name.rsplit("-", 1)[-1]


def _pod(node: Any) -> Iterator[str]:
    if node.pod_name:
        yield node.pod_name


def _seconds(node: Any) -> float | None:
    return duration(node.start_time, node.end_time, node.state in ("RUNNING", "PENDING", "CANCELING"))


def _error(node: Any) -> str | None:
    return (node.error and node.error.message) or None
