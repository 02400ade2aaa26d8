"""The test server's workflows against those of a real Kubeflow Pipelines 2.17."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kfp_workflow import Task, Workflow

ANSWERS = Path(__file__).parent / "pipelines" / "answers"
COMPARED = ("name", "type", "templateName", "phase", "message")


def recorded(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text())["workflow"]
    return manifest


def rebuilt(manifest: dict[str, Any], platform: dict[str, Any] | None = None) -> Workflow:
    """The test server's workflow of a run whose steps went as the recorded ones."""
    (root,) = manifest["spec"]["arguments"]["parameters"]
    status, name = manifest["status"], manifest["metadata"]["name"]
    tasks = {}
    for node in status["nodes"].values():
        step = re.fullmatch(rf"{name}\(0\)\.root\(0\)\.([\w-]+)\(0\)\.executor(\(0\))?", node["name"])
        if step and node["type"] in ("Pod", "Skipped"):
            cached = node["type"] == "Skipped"
            phase = "Succeeded" if cached else node["phase"]
            begin, end = moment(node["startedAt"]), moment(node["finishedAt"])
            assert begin
            tasks[step[1]] = Task(phase, begin, end, cached, "" if cached else node.get("message", ""))
    begin = moment(status["startedAt"])
    assert begin
    return Workflow(
        name=name,
        run_id="1",
        namespace="kubeflow",
        phase=status["phase"],
        begin=begin,
        end=moment(status["finishedAt"]),
        spec={"root": json.loads(root["value"])},
        platform=platform or {},
        tasks=tasks,
    )


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@pytest.mark.parametrize(
    "name", ["succeeded", "cached", "check_failed", "oom", "deadline", "cancelled", "unschedulable", "missing_secret"]
)
def test_nodes_are_those_that_argo_makes(name: str) -> None:
    """Times only of pods: around these Argo needs some seconds of its own."""
    manifest = recorded(name)
    made = rebuilt(manifest).nodes()
    for identity, node in manifest["status"]["nodes"].items():
        own = made[identity]
        assert {key: own.get(key) for key in COMPARED} == {key: node.get(key) for key in COMPARED}
        if node["type"] == "Pod":
            assert (own["startedAt"], own["finishedAt"]) == (node["startedAt"], node["finishedAt"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"secondsAfterSuccess": 3600, "secondsAfterFailure": 3600}),
        (
            {"resourceTtlOnCompletion": 604800},
            {"secondsAfterCompletion": 604800, "secondsAfterSuccess": 3600, "secondsAfterFailure": 3600},
        ),
        (
            {"resourceTtlOnSuccess": 604800, "resourceTtlOnFailure": 604800},
            {"secondsAfterSuccess": 604800, "secondsAfterFailure": 604800},
        ),
    ],
)
def test_what_the_controller_sets_is_merged_in(config: dict[str, int], expected: dict[str, int]) -> None:
    """A lifetime after the end loses against the controller's own after success and failure."""
    platform = {"platforms": {"kubernetes": {"pipelineConfig": config}}}
    text, compressed = rebuilt(recorded("cached"), platform).manifest(2**20)
    assert not compressed
    spec = json.loads(text)["spec"]
    assert spec["ttlStrategy"] == expected
    assert spec["templateDefaults"] == {"retryStrategy": {"limit": "2", "retryPolicy": "OnError"}}
