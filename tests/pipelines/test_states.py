import json
from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as kfp
import pytest

from pipelines.states import StepState, cancelled_at, duration, state, steps
from pipelines.workflow import StoredLog, Workflow

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
SPEC = {
    "root": {
        "dag": {
            "tasks": {
                "pair-2": {"taskInfo": {"name": "pair_depth"}, "dependentTasks": ["ingest-2"]},
                "ingest-2": {"taskInfo": {"name": "ingest_depth"}},
            }
        }
    }
}
ROOT = "simipu-abc(0).root(0)"


def node(path: str, phase: str, message: str = "", kind: str = "Pod", seconds: int = 5, **more: Any) -> dict[str, Any]:
    """A node of a workflow, below its root."""
    begin = BEGIN + timedelta(seconds=more.pop("after", 0))
    over = phase not in ("Running", "Pending")
    return {
        "id": f"simipu-abc-{len(path)}{phase}",
        "name": f"{ROOT}.{path}",
        "type": kind,
        "templateName": "impl",
        "phase": phase,
        "message": message,
        "startedAt": begin.isoformat(),
        "finishedAt": (begin + timedelta(seconds=seconds)).isoformat() if over else None,
        **more,
    }


def workflow(*nodes: dict[str, Any], **metadata: Any) -> Workflow:
    known = {"name": "simipu-abc", "namespace": "kubeflow", **metadata}
    return Workflow({"metadata": known, "status": {"nodes": {one["name"]: one for one in nodes}}})


def run(known: str = "RUNNING", spec: Any = SPEC, history: tuple[str, ...] = (), **more: Any) -> Any:
    times = [BEGIN + timedelta(seconds=10 * number) for number in range(len(history))]
    statuses = [kfp.V2beta1RuntimeStatus(state=one, update_time=at) for one, at in zip(history, times, strict=True)]
    return kfp.V2beta1Run(state=known, pipeline_spec=spec, state_history=statuses, **more)


def states(known: Any, *nodes: dict[str, Any]) -> dict[str, str]:
    return {step.name: step.state for step in steps(known, workflow(*nodes))}


def test_steps_come_in_the_order_of_their_dependence() -> None:
    expected = [StepState("ingest_depth", "waiting"), StepState("pair_depth", "waiting")]
    assert steps(run("PENDING")) == expected
    assert steps(run("PENDING"), workflow()) == expected
    assert steps(run("PENDING", {"pipeline_spec": SPEC, "platform_spec": {}})) == expected
    assert steps(run("PENDING", None), specification=SPEC) == expected  # a run of an uploaded version


def test_the_workflow_itself_names_the_steps_too() -> None:
    manifest = {
        "metadata": {"name": "simipu-abc"},
        "spec": {"arguments": {"parameters": [{"name": "components-root", "value": json.dumps(SPEC["root"])}]}},
    }
    known = Workflow.read(json.dumps(manifest))
    assert [step.name for step in steps(run("PENDING", None), known)] == ["ingest_depth", "pair_depth"]


def test_a_step_goes_from_its_driver_to_its_executor() -> None:
    assert states(run(), node("ingest-2-driver(0)", "Running"))["ingest_depth"] == "running"
    done = (
        node("ingest-2-driver(0)", "Succeeded"),
        node("ingest-2(0).executor(0)", "Succeeded"),
        node("pair-2-driver(0)", "Succeeded"),
        node("pair-2(0).executor(0)", "Running"),
    )
    assert states(run(), *done) == {"ingest_depth": "succeeded", "pair_depth": "running"}
    assert steps(run(), workflow(*done))[0].seconds == 5


@pytest.mark.parametrize("message", ["", "PodInitializing"])
def test_a_pod_that_waits_is_pending(message: str) -> None:
    (step, _) = steps(run(), workflow(node("ingest-2(0).executor(0)", "Pending", message)))
    assert (step.state, step.cause) == ("pending", None)


def test_a_skipped_executor_tells_of_the_cache() -> None:
    cached = node("ingest-2(0).executor", "Skipped", "when 'true != true' evaluated false", kind="Skipped")
    assert states(run(), cached)["ingest_depth"] == "cached"


def test_names_without_numbers_of_attempts_are_read() -> None:
    plain = node("", "Succeeded") | {"name": "simipu-abc.root.ingest-2.executor"}
    assert states(run(), plain)["ingest_depth"] == "succeeded"


def test_the_last_attempt_counts_however_it_is_wrapped() -> None:
    """Also the wrappers are tried again: ten attempts of the first are older than the first of the second."""
    nodes = [node(f"ingest-2(0).executor({number})", "Failed", "main: OOMKilled (exit code 1)") for number in range(11)]
    again = [node("ingest-2(0).executor", "Failed", "No more retries left", kind="Retry"), *nodes]
    begun = node("ingest-2(1).executor(0)", "Running", after=60)
    (step, _) = steps(run(), workflow(begun, *again))
    assert (step.state, step.attempts) == ("running", 12)
    assert step.cause is not None
    assert step.cause.startswith("the attempt before failed: OOMKilled")


def test_while_another_attempt_may_come_the_step_has_not_failed() -> None:
    failed = node("ingest-2(0).executor(0)", "Error", "pod deleted")
    wrapper = node("ingest-2", "Running", kind="Retry")
    assert states(run(), failed, wrapper)["ingest_depth"] == "retrying"
    assert states(run(), failed, wrapper | {"phase": "Error"})["ingest_depth"] == "failed"
    assert states(run("FAILED"), failed, wrapper)["ingest_depth"] == "failed"


def test_the_last_failed_attempt_is_looked_into_first() -> None:
    failed = [node(f"ingest-2(0).executor({number})", "Failed", id=f"simipu-abc-{number}") for number in (0, 1)]
    (step, other) = steps(run("FAILED"), workflow(*failed))
    assert (step.state, [pod.node_id for pod in step.pods]) == ("failed", ["simipu-abc-1", "simipu-abc-0"])
    assert other == StepState("pair_depth", "not run")


def test_why_it_was_not_tried_again_is_told_too() -> None:
    failed = node("ingest-2(0).executor(0)", "Error", "pod deleted")
    why = "value '1.5' cannot be resolved to an int"
    wrapper = node("ingest-2(0).executor", "Error", f"task 'x' errored: {why}", "Retry")
    (step, _) = steps(run("FAILED"), workflow(failed, wrapper))
    assert step.cause is not None
    assert step.cause.endswith(f"; {why}")


def test_a_driver_that_fails_fails_its_step() -> None:
    failed = node("ingest-2-driver(0)", "Failed", "no such secret")
    omitted = node("ingest-2", "Omitted", kind="Skipped")
    (step, _) = steps(run("FAILED"), workflow(failed, omitted))
    assert (step.state, len(step.pods), step.cause) == ("failed", 1, "no such secret")


def test_steps_of_nested_pipelines_are_told_by_their_path() -> None:
    inner = {"dag": {"tasks": {"pretrain": {"taskInfo": {"name": "pretrain"}}}}}
    task = {"taskInfo": {"name": "row_a"}, "componentRef": {"name": "comp-row-a"}}
    spec = {"root": {"dag": {"tasks": {"row-a": task}}}, "components": {"comp-row-a": inner}}
    nested = workflow(node("row-a(0).pretrain(0).executor(0)", "Running"))
    assert [(step.name, step.state) for step in steps(run(spec=spec), nested)] == [("row_a/pretrain", "running")]


def test_cancelled_runs_end_as_failed() -> None:
    cancelled = run("FAILED", history=("PENDING", "RUNNING", "CANCELING", "FAILED"))
    assert (state(cancelled), cancelled_at(cancelled)) == ("CANCELED", BEGIN + timedelta(seconds=20))
    assert state(run("FAILED", history=("RUNNING", "FAILED"))) == "FAILED"
    retried = ("RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED")
    assert state(run("FAILED", history=retried)) == "FAILED"
    assert state(run("CANCELED")) == "CANCELED"
    failed_before = node("ingest-2(0).executor(0)", "Failed")
    stopped = node("pair-2(0).executor(0)", "Failed", "main: Error (exit code 143)", after=16)
    assert states(cancelled, failed_before, stopped) == {"ingest_depth": "failed", "pair_depth": "canceled"}


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("main: Error (exit code 1)", None),
        ("main: Error (exit code 137)", "it was killed (exit code 137)"),
        ("The node was low on resource: memory.", "The node was low on resource: memory."),
        ('ImagePullBackOff: Back-off pulling image "a"', 'ImagePullBackOff: Back-off pulling image "a"'),
        ("x" * 1000, "x" * 300 + " …"),
    ],
)
def test_what_kubernetes_says_is_told(message: str, cause: str | None) -> None:
    (step, _) = steps(run("FAILED"), workflow(node("ingest-2(0).executor(0)", "Failed", message)))
    assert step.cause == cause


def test_the_log_of_a_pod_is_known_by_three_names() -> None:
    session = {"display_name": "pairs", "store_session_info": '{"Provider":"s3"}'}
    task = {
        "inputs": {"artifacts": {"pairs": {"artifacts": [{"metadata": session}]}}},
        "outputs": {"artifacts": {"executor-logs": {"artifacts": [{"uri": "s3://bucket/a/b/executor-logs"}]}}},
    }
    patch = {"containers": [{"command": ["launch", "--executor_input", json.dumps(task)]}]}
    inputs = {"parameters": [{"name": "pod-spec-patch", "value": json.dumps(patch)}]}
    known = node("ingest-2(0).executor(2)", "Failed", id="simipu-abc-17", inputs=inputs)
    ((pod,), _) = (step.pods for step in steps(run("FAILED"), workflow(known)))
    assert (pod.node_id, pod.name, pod.namespace) == ("simipu-abc-17", "simipu-abc-impl-17", "kubeflow")
    assert pod.log == StoredLog("s3", "bucket", "a/b/executor-logs-2", '{"Provider":"s3"}')
    old = {"annotations": {"workflows.argoproj.io/pod-name-format": "v1"}}
    assert steps(run("FAILED"), workflow(known, **old))[0].pods[0].name == "simipu-abc-17"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"metadata": "a"}',
        '{"metadata": {"name": "a"}, "status": []}',
        '{"metadata": {"name": "a"}, "status": {"compressedNodes": "?"}}',
        '{"metadata": {"name": "a"}, "status": {"compressedNodes": 1}}',
        '{"metadata": {"name": "a"}, "status": {"offloadNodeStatusVersion": "fnv:1"}}',
        '{"metadata": {"name": "a"}, "status": {"nodes": {"1": null}}}',
        '{"metadata": {"name": "a"}, "status": {"nodes": {"1": {"name": "a", "startedAt": "soon"}}}}',
    ],
)
def test_what_is_no_workflow_is_none(text: str) -> None:
    assert Workflow.read(text) is None


def _task(**more: Any) -> dict[str, Any]:
    return {"dag": {"tasks": {"a": {"componentRef": {"name": "c"}, **more}}}}


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"root": {"dag": {"tasks": {"a": {"taskInfo": None, "dependentTasks": None}}}}}, ["a"]),
        ({"pipeline_spec": {"root": _task(taskInfo={"name": "x"}), "components": None}}, ["x"]),
        ({"root": None}, []),
        ({"root": {"dag": {"tasks": {"a": None}}}}, []),
        ({"root": _task(dependentTasks=["a"])}, []),
        ({"root": _task(), "components": {"c": _task()}}, []),
        ("text", []),
    ],
)
def test_whatever_the_specification_lacks_the_run_is_told(spec: Any, names: list[str]) -> None:
    known = run("SUCCEEDED", spec)
    known.state_history = [None]
    known.run_details = kfp.V2beta1RunDetails(task_details=[None])
    assert [(step.name, step.state) for step in steps(known)] == [(name, "not run") for name in names]
    assert state(known) == "SUCCEEDED"


@pytest.mark.parametrize("field", ["phase", "type", "id", "templateName", "message", "startedAt", "finishedAt"])
@pytest.mark.parametrize("missing", [True, False])
def test_whatever_a_node_lacks_its_step_is_told(field: str, missing: bool) -> None:
    known = node("ingest-2(0).executor(0)", "Succeeded") | {field: None}
    if missing:
        del known[field]
    step, other = steps(run("SUCCEEDED"), workflow(known))
    assert step.state == {"phase": "not finished", "type": "not run"}.get(field, "succeeded")
    assert other.state == "not run"


class TestTasksOfTheApi:
    """Where the server does not give the workflow."""

    @staticmethod
    def task(name: str, known: str | None, error: str | None = None) -> Any:
        return kfp.V2beta1PipelineTaskDetail(
            display_name=name,
            state=known,
            start_time=BEGIN,
            end_time=NEVER if known == "RUNNING" else BEGIN + timedelta(seconds=5),
            error=kfp.GoogleRpcStatus(message=error) if error else None,
        )

    def states(self, known: str, *tasks: Any, history: tuple[str, ...] = ()) -> dict[str, str]:
        details = kfp.V2beta1RunDetails(task_details=list(tasks))
        return {step.name: step.state for step in steps(run(known, history=history, run_details=details))}

    def test_wrappers_and_drivers_are_no_steps(self) -> None:
        names = ("simipu-abc", "simipu-abc(0)", "root", "root(0)", "ingest-2-driver", "ingest-2(0)", "executor")
        wrappers = [self.task(name, "RUNNING") for name in names]
        found = self.states("RUNNING", *wrappers, self.task("ingest-2", "SUCCEEDED"))
        assert found == {"ingest_depth": "succeeded", "pair_depth": "waiting"}
        assert self.states("RUNNING", self.task("ingest-2-driver", "RUNNING"))["ingest_depth"] == "running"

    def test_omitted_tasks_have_no_state(self) -> None:
        tasks = (self.task("ingest-2", "FAILED"), self.task("pair-2", None), self.task("pair-2-driver", None))
        assert self.states("FAILED", *tasks) == {"ingest_depth": "failed", "pair_depth": "not run"}
        history = ("RUNNING", "CANCELING", "FAILED")
        assert self.states("FAILED", *tasks, history=history)["ingest_depth"] == "canceled"

    def test_a_driver_that_fails_fails_its_step(self) -> None:
        details = kfp.V2beta1RunDetails(task_details=[self.task("ingest-2-driver", "FAILED", "no such secret")])
        (step, _) = steps(run("FAILED", run_details=details))
        assert (step.state, step.cause) == ("failed", "no such secret")


def test_times_that_the_api_does_not_know_are_none() -> None:
    assert duration(BEGIN, BEGIN + timedelta(seconds=2), running=False) == 2
    assert duration(NEVER, BEGIN, running=False) is None
    assert duration(None, BEGIN, running=False) is None
    assert duration(BEGIN, NEVER, running=False) is None
    assert duration(datetime.now(UTC) + timedelta(hours=1), NEVER, running=True) == 0
    assert (duration(datetime.now(UTC) - timedelta(hours=1), NEVER, running=True) or 0) >= 3600
