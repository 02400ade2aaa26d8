from datetime import UTC, datetime, timedelta
from typing import Any

import kfp_server_api as kfp

from pipelines.states import StepState, duration, steps

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


def node(name: str, state: str, hash_: str, *children: str, error: str | None = None, pod: bool = True) -> Any:
    return kfp.V2beta1PipelineTaskDetail(
        display_name=name,
        state=state,
        start_time=BEGIN,
        end_time=NEVER if state == "RUNNING" else BEGIN + timedelta(seconds=5),
        pod_name=f"simipu-abc-template-{hash_}" if pod else None,
        task_id=None if pod else f"simipu-abc-{hash_}",
        child_tasks=[kfp.PipelineTaskDetailChildTask(pod_name=f"simipu-abc-{child}") for child in children],
        error=kfp.GoogleRpcStatus(message=error) if error else None,
    )


def run(*nodes: Any, state: str = "RUNNING", spec: Any = SPEC) -> Any:
    details = kfp.V2beta1RunDetails(
        task_details=[node("root", state, "1"), node("root-driver", "SUCCEEDED", "2"), *nodes]
    )
    return kfp.V2beta1Run(state=state, pipeline_spec=spec, run_details=details)


def states(given: Any) -> dict[str, str]:
    return {step.name: step.state for step in steps(given)}


def test_steps_come_in_the_order_of_their_dependence() -> None:
    assert steps(kfp.V2beta1Run(state="PENDING", pipeline_spec=SPEC)) == [
        StepState("ingest_depth", "waiting"),
        StepState("pair_depth", "waiting"),
    ]
    with_platform = {"pipeline_spec": SPEC, "platform_spec": {}}
    assert list(states(kfp.V2beta1Run(state="PENDING", pipeline_spec=with_platform))) == ["ingest_depth", "pair_depth"]


def test_a_step_goes_from_its_driver_to_its_executor() -> None:
    assert states(run(node("ingest-2-driver", "RUNNING", "3")))["ingest_depth"] == "running"
    done = run(
        node("ingest-2-driver", "SUCCEEDED", "3"),
        node("ingest-2", "SUCCEEDED", "4", "5"),
        node("executor", "SUCCEEDED", "5"),
        node("pair-2-driver", "SUCCEEDED", "6"),
        node("pair-2", "RUNNING", "7", "8"),
        node("executor", "RUNNING", "8"),
    )
    assert states(done) == {"ingest_depth": "succeeded", "pair_depth": "running"}
    assert steps(done)[0].seconds == 5


def test_a_skipped_executor_tells_of_the_cache() -> None:
    cached = run(node("ingest-2", "SUCCEEDED", "4", "5"), node("executor", "SKIPPED", "5"))
    assert states(cached)["ingest_depth"] == "cached"


def test_the_last_failed_attempt_is_looked_into_first() -> None:
    failed = run(
        node("ingest-2", "FAILED", "4", "5"),
        node("executor", "FAILED", "5", "6", "7"),
        node("executor(0)", "FAILED", "6"),
        node("executor(1)", "FAILED", "7", error="exit code 1"),
        state="FAILED",
    )
    (step, other) = steps(failed)
    assert (step.state, step.error) == ("failed", "exit code 1")
    assert step.pods[:2] == ("simipu-abc-template-7", "simipu-abc-template-6")
    assert other == StepState("pair_depth", "not run")


def test_without_names_of_pods_their_node_ids_are_tried() -> None:
    failed = run(
        node("ingest-2", "FAILED", "4", "5", pod=False), node("executor", "FAILED", "5", pod=False), state="FAILED"
    )
    assert steps(failed)[0].pods == ("simipu-abc-5",)


def test_a_driver_that_fails_fails_its_step() -> None:
    failed = run(
        node("ingest-2-driver", "FAILED", "3", error="no such secret"), node("ingest-2", "SKIPPED", "4"), state="FAILED"
    )
    step = steps(failed)[0]
    assert (step.state, step.pods, step.error) == ("failed", ("simipu-abc-template-3",), "no such secret")


def test_a_run_of_an_uploaded_version_names_its_steps_by_their_keys() -> None:
    assert states(run(node("ingest-2", "RUNNING", "4"), node("executor", "RUNNING", "5"), spec=None)) == {
        "ingest-2": "running"
    }


def test_times_that_the_api_does_not_know_are_none() -> None:
    assert duration(BEGIN, BEGIN + timedelta(seconds=2), running=False) == 2
    assert duration(NEVER, BEGIN, running=False) is None
    assert duration(None, BEGIN, running=False) is None
    assert duration(BEGIN, NEVER, running=False) is None
    assert duration(datetime.now(UTC) + timedelta(hours=1), NEVER, running=True) == 0
    assert (duration(datetime.now(UTC) - timedelta(hours=1), NEVER, running=True) or 0) >= 3600
