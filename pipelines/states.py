"""How a run on Kubeflow and its steps stand."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from pydantic import Field

from pipelines.answers import Part
from pipelines.workflow import Pod, TaskPath, Workflow

FINISHED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
"""States that a run does not leave, unless it is retried."""
_OF_PHASES = {"Running": "running", "Pending": "pending", "Succeeded": "succeeded", "Skipped": "cached"}


class StepState(NamedTuple):
    """One step of a run."""

    name: str
    state: str
    """``waiting``, ``pending``, ``running``, ``retrying``, ``succeeded``, ``cached``, ``failed``, ``canceled`` or ``not
    run``."""
    seconds: float | None = None
    attempts: int = 0
    """How often it was begun."""
    cause: str | None = None
    """What Kubernetes says: why its pod does not start, why the attempt before failed, why the step did."""
    pods: tuple[Pod, ...] = ()
    """Pods whose log may hold the cause of a failure, the likeliest first."""


def state(run: Any) -> str:
    """How a run stands; one that was cancelled ends as FAILED, but its history tells.

    Args:
        run: ``V2beta1Run``.
    """
    known = str(run.state or "PENDING")
    return "CANCELED" if known == "FAILED" and cancelled_at(run) else known


def cancelled_at(run: Any) -> datetime | None:
    """When a run was cancelled; what was before its last start does not count, as it may have been retried."""
    moment: datetime | None = None
    for status in filter(None, run.state_history or []):
        if status.state == "RUNNING":
            moment = None
        elif status.state == "CANCELING":
            moment = status.update_time
    return moment


def steps(
    run: Any, workflow: Workflow | None = None, specification: Mapping[str, Any] | None = None
) -> list[StepState]:
    """The run's steps in the order in which they can run.

    Args:
        run: ``V2beta1Run``.
        workflow: what executes it; without it the states are those of the API's own list of tasks.
        specification: of the pipeline, where the run does not hold it, as one of an uploaded version.
    """
    known = _leaves(run.pipeline_spec or specification or {"root": workflow.root if workflow else None})
    if workflow is not None:
        return [_of_workflow(run, workflow, path, name) for path, name in known]
    details = (run.run_details and run.run_details.task_details) or []
    tasks = {task.display_name: task for task in filter(None, details)}
    return [_of_task(run, tasks, path[-1], name) for path, name in known]


def duration(begin: datetime | None, end: datetime | None, running: bool) -> float | None:
    """Seconds from one time to the other, or until now; None where a time is missing, which the API tells as 1970."""
    if begin is None or begin.year < 2000:
        return None
    if end is None or end.year < 2000:
        if not running:
            return None
        end = datetime.now(UTC)
    return max(0.0, (end - begin).total_seconds())


class _Named(Part):
    name: str | None = None


class _Task(Part):
    task_info: _Named = _Named()
    component_ref: _Named = _Named()
    dependent_tasks: tuple[str, ...] = ()


class _Graph(Part):
    tasks: dict[str, _Task] = Field(default_factory=dict)


class _Component(Part):
    dag: _Graph | None = None


class _Pipeline(Part):
    root: _Component = _Component()
    components: dict[str, _Component] = Field(default_factory=dict)


class _WithPlatform(Part):
    pipeline: _Pipeline | None = Field(None, alias="pipeline_spec")


def _leaves(specification: Any) -> list[tuple[TaskPath, str]]:
    """Path and display name of every step, nested pipelines too, sorted by their dependence; none if unreadable."""

    def walk(component: _Component, path: TaskPath, prefix: str) -> Iterator[tuple[TaskPath, str]]:
        tasks = component.dag.tasks if component.dag else {}
        order = TopologicalSorter({key: task.dependent_tasks for key, task in sorted(tasks.items())})
        for key in order.static_order():
            if key not in tasks:
                continue
            name = prefix + (tasks[key].task_info.name or key)
            inner = pipeline.components.get(tasks[key].component_ref.name or "")
            if inner and inner.dag:
                yield from walk(inner, (*path, key), f"{name}/")
            else:
                yield (*path, key), name

    try:
        pipeline = _WithPlatform.model_validate(specification).pipeline or _Pipeline.model_validate(specification)
        return list(walk(pipeline.root, (), ""))
    except (ValueError, RecursionError):  # also where tasks depend on one another in a circle
        return []


def _of_workflow(run: Any, workflow: Workflow, path: TaskPath, name: str) -> StepState:
    over = run.state in FINISHED
    pods, drivers = workflow.pods(path), workflow.drivers(path)
    shown = pods or drivers
    if not shown or shown[-1].phase == "Omitted":
        return StepState(name, "not run" if over else "waiting")
    last = shown[-1]
    latest_first = tuple(reversed(shown))
    seconds = duration(shown[0].begin, last.end, running=not over)
    if last.phase in ("Failed", "Error"):
        stopped = cancelled_at(run)
        if not over and workflow.goes_on(path):
            kind = "retrying"
        elif stopped and (last.end is None or last.end >= stopped.replace(microsecond=0)):
            kind = "canceled"
        else:
            kind = "failed"
        return StepState(name, kind, seconds, len(shown), last.said, latest_first)
    if not pods:
        return StepState(name, "not run" if over else "running", seconds, cause=last.said)
    going_on = last.phase in ("Running", "Pending")
    before = pods[-2].said if len(pods) > 1 and going_on else None
    kind = _OF_PHASES.get(last.phase, last.phase.lower())
    if over and kind in ("running", "pending"):
        kind = "canceled" if cancelled_at(run) else "not finished"
    return StepState(
        name, kind, seconds, len(pods), last.said or (before and f"the attempt before failed: {before}"), latest_first
    )


def _of_task(run: Any, tasks: Mapping[str, Any], key: str, name: str) -> StepState:
    """From the API's list of tasks: the outermost node of a step has its key as name."""
    over = run.state in FINISHED
    task, driver = tasks.get(key), tasks.get(f"{key}-driver")
    if driver is not None and driver.state == "FAILED":
        return StepState(name, "failed", _seconds(driver), cause=_error(driver))
    if task is None or not task.state:
        begun = driver is not None and driver.state and not over
        return StepState(name, "running" if begun else "not run" if over else "waiting")
    known = str(task.state).lower()
    if known == "failed" and state(run) == "CANCELED":
        known = "canceled"
    return StepState(name, known, _seconds(task), cause=_error(task))


def _seconds(task: Any) -> float | None:
    return duration(task.start_time, task.end_time, task.state in ("RUNNING", "PENDING", "CANCELING"))


def _error(task: Any) -> str | None:
    return (task.error and task.error.message) or None
