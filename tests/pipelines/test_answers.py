"""What the commands say about runs of a real Kubeflow Pipelines 2.17, from its trimmed answers in ``answers/``."""

import base64
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.client import Client
from pipelines.connection import Connection, Credential
from pipelines.follow import Outcome, Pace, follow
from tests.kfp_server import KfpServer, kfp_server
from tests.pipelines.kubeflow import Done, cli

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ANSWERS = Path(__file__).with_name("answers")
GONE = json.dumps({"error_message": "BadRequestError: Failed to read logs", "error_details": "NoSuchKey"})
NO_ROW = (
    "Failed to terminate a run: Failed to terminate run 1: Invalid input error: Failed to terminate a run 1. Row not "
    "found"
)
NOISE = re.compile(r"[IWEF]\d{4} \d\d:|argo=true|Error: exit status|KFP Executor|^\s*[{}\"]|Traceback|-driver|\(\d\)")
SCREEN = 40

DONE = dict.fromkeys(("check", "ingest_pretrain", "ingest_depth", "pair_pretrain", "pair_depth"), "succeeded")
CACHED = dict.fromkeys(DONE, "cached") | {"check": "succeeded", "finetune_scratch": "cached"}
REST = ("pretrain", "finetune_scratch", "finetune", "evaluate")
FAILED = {"pretrain": "failed", "finetune": "not run", "evaluate": "not run"}
WAITING = {"finetune": "waiting", "evaluate": "waiting"}


class Answers:
    """The server of one recorded run: whatever is asked of it is answered from the file."""

    def __init__(self, name: str) -> None:
        self.data = json.loads((ANSWERS / f"{name}.json").read_text())
        self.run: dict[str, Any] = self.data["run"]
        self.version: dict[str, Any] | None = None

    def __call__(self, handler: Any) -> bool:
        path = handler.path.split("?")[0]
        run_id = self.run["run_id"]
        if path == f"/apis/v2beta1/runs/{run_id}":
            handler.send_json(200, self.run)
        elif path == f"/apis/v1beta1/runs/{run_id}":
            manifest = json.dumps(self.data["workflow"]) if self.data["workflow"] else ""
            handler.send_json(200, {"run": {"id": run_id}, "pipeline_runtime": {"workflow_manifest": manifest}})
        elif path == f"/apis/v2beta1/runs/{run_id}:terminate":
            handler.send_json(400, {"code": 3, "message": NO_ROW, "details": []})
        elif self.version and "/versions/" in path:
            handler.send_json(200, self.version)
        elif log := re.fullmatch(rf"/apis/v1alpha1/runs/{run_id}/nodes/(.+)/log", path):
            handler.send(200, self.data["logs"].get(log[1], GONE).encode(), "text/plain; charset=utf-8")
        else:
            return False
        return True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    for name in os.environ:
        if name.startswith(("KFP_", "KF_PIPELINES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")
    with kfp_server(tmp_path / "kfp") as served:
        monkeypatch.setenv("KFP_ENDPOINT", served.url)
        yield served


@pytest.fixture
def recorded(server: KfpServer) -> Callable[[str], Answers]:
    def record(name: str) -> Answers:
        server.fault = answers = Answers(name)
        return answers

    return record


def states(done: Done) -> dict[str, str]:
    """Steps and states of the table."""
    rows = re.findall(r"^│ (\S+) +│ ([^│]+?) +│", done.out, flags=re.MULTILINE)
    return dict(rows)


def check_screen(done: Done) -> None:
    """One screen, without what launcher, Argo and SDK print."""
    lines = done.out.splitlines()
    assert len(lines) <= SCREEN
    assert [line for line in lines if NOISE.search(line)] == []


@pytest.mark.parametrize(
    ("name", "expected", "last"),
    [
        ("succeeded", DONE | dict.fromkeys(REST, "succeeded"), None),
        ("cached", dict.fromkeys((*DONE, *REST), "cached"), None),
        ("scheduled", CACHED | dict.fromkeys(("pretrain", "finetune", "evaluate"), "succeeded"), None),
        ("compressed", dict.fromkeys((*DONE, *REST), "cached"), None),
        (
            "check_failed",
            dict.fromkeys((*DONE, *REST), "not run") | {"check": "failed"},
            "error: check: demo: `tracking.promotion.mode`: Input should be 'off', 'report' or 'promote' (got "
            "'bogus').",
        ),
        (
            "traceback",
            DONE | dict.fromkeys(REST, "succeeded") | {"finetune": "failed", "evaluate": "not run"},
            "error: finetune: failed, see the lines above",
        ),
        (
            "oom",
            CACHED | FAILED,
            "error: pretrain: OOMKilled: it needed more memory than its limit; raise memory_limit in cluster.yaml",
        ),
        (
            "deadline",
            CACHED | FAILED,
            "error: pretrain: Pod was active on the node longer than the specified deadline; raise timeout in "
            "cluster.yaml",
        ),
        (
            "scratch",
            CACHED | FAILED,
            'error: pretrain: Usage of EmptyDir volume "scratch" exceeds the limit "10Mi"; raise scratch in '
            "cluster.yaml",
        ),
        (
            "input_gone",
            dict.fromkeys((*DONE, "pretrain"), "cached") | {"finetune_scratch": "failed", "finetune": "failed"},
            'error: finetune: failed to download input artifact "depth" from remote storage URI '
            '"minio://mlpipeline/v2/artifacts/simipu/e08d0e31-de6e-4b5a-aabf-b994db2aa593/pair-2/'
            '8fd1a1a1-cf69-44aa-8779-57f58ff7c0c9/shards": failed to list objects in remote storage',
        ),
        ("cancelled", DONE | {"pretrain": "canceled", "finetune_scratch": "succeeded", "finetune": "not run"}, None),
        ("retried", CACHED | {"pretrain": "succeeded, attempt 2", "finetune": "succeeded"}, None),
        (
            "retrying",
            CACHED | WAITING | {"pretrain": "running, attempt 2"},
            "pretrain: the attempt before failed: its pod was deleted: the node was lost or drained, or somebody "
            "deleted it",
        ),
        ("retry_button", CACHED | WAITING | {"pretrain": "running"}, None),
        (
            "oom_retried",
            CACHED | WAITING | {"pretrain": "running, attempt 5"},
            "pretrain: the attempt before failed: OOMKilled: it needed more memory than its limit; raise memory_limit "
            "in cluster.yaml",
        ),
        (
            "missing_secret",
            {"check": "pending", "ingest_depth": "waiting"},
            'check: CreateContainerConfigError: secret "simipu-object-store" not found in namespace kubeflow',
        ),
        (
            "unschedulable",
            {"ingest_depth": "pending", "ingest_pretrain": "pending"},
            "ingest_depth: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.",
        ),
        (
            "image_pull",
            {"check": "pending"},
            f'check: ErrImagePull: failed to pull and unpack image "registry.example/absent@sha256:{"c" * 64}"',
        ),
        (
            "invalid_pod",
            {"check": "retrying, attempt 14"},
            'check: its pod is invalid: spec.containers[1].env[7].valueFrom: Invalid value: "": may not be specified '
            "when `value` is not empty",
        ),
    ],
)
def test_status_tells_state_and_cause(
    recorded: Callable[[str], Answers], name: str, expected: dict[str, str], last: str | None
) -> None:
    answers = recorded(name)
    done = cli("status", answers.run["run_id"])
    assert done.code == 0, done.error
    check_screen(done)
    shown = states(done)
    assert {step: shown[step] for step in expected} == expected
    if last is None:
        assert "error:" not in done.out
    else:
        assert any(line.startswith(last) for line in done.out.splitlines())


def test_steps_are_those_of_the_graph_in_their_order(recorded: Callable[[str], Answers]) -> None:
    for name in ("succeeded", "scheduled", "compressed"):
        answers = recorded(name)
        shown = states(cli("status", answers.run["run_id"]))
        assert list(shown) == [*DONE, *REST], name
        assert "waiting" not in shown.values()


def test_a_traceback_keeps_its_indentation(recorded: Callable[[str], Answers]) -> None:
    lines = cli("status", recorded("traceback").run["run_id"]).out.splitlines()
    assert lines[-2:] == ["TypeError: Cannot instantiate typing.Union", "error: finetune: failed, see the lines above"]
    assert any(line.startswith('  File "/usr/lib/python3.11/typing.py"') for line in lines)


def test_several_failed_steps_fit_one_screen(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("sweep_failed")
    packed = answers.data["workflow"]["status"]["compressedNodes"]
    for identity, node in json.loads(gzip.decompress(base64.b64decode(packed))).items():
        if node["type"] == "Pod" and node["phase"] == "Failed":
            answers.data["logs"][identity] = "".join(f"line {number}\n" for number in range(100, 200))
    below = cli("status", answers.run["run_id"]).out.split("See ")[1].splitlines()[1:]
    assert [line for line in below if line.startswith("error: ")] == [
        f"error: ingest_{part}: failed, see the lines above"
        for part in (
            "depth_improved_imagenet_kitti",
            "depth_improved_imagenet_nyu",
            "pretrain_improved_kitti_kitti",
            "pretrain_improved_waymo_kitti",
        )
    ]
    assert len(below) == 4 * (5 + 1)


@pytest.mark.parametrize(
    ("name", "code", "last"),
    [
        ("succeeded", 0, "demo succeeded."),
        ("cached", 0, "demo succeeded."),
        ("retried", 0, "demo succeeded."),
        ("compressed", 0, "demo succeeded."),
        ("oom", 1, "raise memory_limit in cluster.yaml"),
        ("check_failed", 1, "(got 'bogus')."),
        ("cancelled", 3, "demo was cancelled."),
    ],
)
def test_waiting_ends_with_the_right_code(recorded: Callable[[str], Answers], name: str, code: int, last: str) -> None:
    done = cli("status", recorded(name).run["run_id"], "--wait")
    assert done.code == code
    assert done.out.splitlines()[-1].endswith(last)
    check_screen(done)


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [("succeeded", "had ended already", 0), ("cancelled", "had ended already", 3), ("oom", "had ended already", 1)],
)
def test_cancelling_what_has_ended_is_no_error(
    recorded: Callable[[str], Answers], name: str, said: str, code: int
) -> None:
    run_id = recorded(name).run["run_id"]
    assert cli("cancel", run_id) == Done(0, f"Run {run_id} {said}\n", "")
    assert cli("cancel", run_id, "--wait").code == code


def test_cancelling_twice_is_no_error(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("cancelled")
    answers.run["state"] = "CANCELING"
    del answers.run["state_history"][-1]
    run_id = answers.run["run_id"]
    assert cli("cancel", run_id) == Done(0, f"Run {run_id} is being stopped already\n", "")


def test_a_run_whose_workflow_is_gone_is_told(recorded: Callable[[str], Answers]) -> None:
    done = cli("cancel", recorded("retrying").run["run_id"])
    assert done.code == 1
    assert "cannot be stopped: its workflow is gone" in done.error
    assert "the server shows it as running" in done.error


def test_a_retry_after_cancelling_is_no_longer_cancelled(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("oom")
    history = [("RUNNING", 0), ("CANCELING", 1), ("FAILED", 2), ("RUNNING", 3), ("FAILED", 4)]
    answers.run["state_history"] = [
        {"state": state, "update_time": f"2026-11-26T21:20:0{at}Z"} for state, at in history
    ]
    assert cli("status", answers.run["run_id"], "--wait").code == 1
    answers.run["state_history"].insert(4, {"state": "CANCELING", "update_time": "2026-11-26T21:20:03Z"})
    assert cli("status", answers.run["run_id"], "--wait").code == 3


def test_every_refused_field_of_the_form_has_its_line(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("check_failed")
    refused = ["`finetune.epochs`: at least 1 (got 0)", "`promotion`: off, report or promote (got 'bogus')"]
    ((node, log),) = answers.data["logs"].items()
    found = [line for line in log.splitlines() if line.startswith("error: ")]
    answers.data["logs"][node] = log.replace(found[0], "\n".join(f"error: {line}" for line in refused))
    expected = [f"error: check: {line}" for line in refused]
    for more in ([], ["--wait"]):
        assert cli("status", answers.run["run_id"], *more).out.splitlines()[-2:] == expected


def test_without_a_workflow_the_tasks_of_the_api_are_taken(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("check_failed")
    (root,) = answers.data["workflow"]["spec"]["arguments"]["parameters"]
    answers.version = {"pipeline_version_id": "1", "pipeline_spec": {"root": json.loads(root["value"])}}
    answers.data["workflow"] = None
    done = cli("status", answers.run["run_id"])
    assert states(done) == dict.fromkeys((*DONE, *REST), "not run") | {"check": "failed"}
    assert f"kubectl logs -n kubeflow -l pipeline/runid={answers.run['run_id']}" in done.out


@pytest.mark.parametrize(
    ("status", "body"), [(501, b"{}"), (503, b"{}"), (200, b'{"run"'), (200, b'{"pipeline_runtime": null}')]
)
def test_how_a_run_ended_does_not_depend_on_its_workflow(
    recorded: Callable[[str], Answers], server: KfpServer, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.client._SOON_S", 0)
    answers = recorded("succeeded")

    def fault(handler: Any) -> bool:
        if "/v1beta1/" not in handler.path:
            return answers(handler)
        handler.send(status, body, "application/json")
        return True

    server.fault = fault
    done = cli("status", answers.run["run_id"], "--wait")
    assert (done.code, done.out.splitlines()[-1]) == (0, "demo succeeded.")


@pytest.mark.parametrize(
    ("status", "kind", "tokens", "said"),
    [
        (200, "text/html", ["a", "a"], "answers with a web page"),
        (302, "text/html", ["a", "a"], "sends you to a login page"),
        (200, "application/json", ["a", "a"], "its answer is cut off"),
        (None, "", ["a", ""], "KFP_TOKEN_FILE: holds no token"),
    ],
)
def test_one_strange_moment_ends_no_wait(
    recorded: Callable[[str], Answers], server: KfpServer, status: int | None, kind: str, tokens: list[str], said: str
) -> None:
    """The token of a file that is just about to be written is empty."""
    answers = recorded("succeeded")
    token = chain(tokens, repeat("a"))
    client = Client(Connection(server.url, credential=Credential("token", "KFP_TOKEN_FILE", lambda: next(token))))
    console = Console(record=True, width=300)
    strange = [status] if status else []

    def fault(handler: Any) -> bool:
        if not strange:
            return answers(handler)
        handler.send(strange.pop(), b"<html>", kind, Location="/login")
        return True

    server.fault = fault
    assert follow(client, answers.run["run_id"], console, Pace(poll_s=0.01)) == Outcome.SUCCEEDED
    shown = console.export_text()
    assert said in shown
    assert "Trying again" in shown


def test_a_log_that_is_nowhere_is_not_shown_as_one(recorded: Callable[[str], Answers]) -> None:
    answers = recorded("check_failed")
    answers.data["logs"] = {}
    done = cli("status", answers.run["run_id"])
    assert "error_message" not in done.out
    assert "check: failed; its log: kubectl logs -n kubeflow" in done.out
