"""Runs that a Kubeflow server really executes, with stages that do nothing: followed, failed, cancelled, lost."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil  # type: ignore[import-untyped]
import pytest
import yaml
from rich.console import Console

from pipelines.client import Client
from pipelines.connection import Connection
from pipelines.follow import Outcome, Pace, clock, end_tracking, follow, steps_table
from pipelines.options import chosen
from pipelines.states import StepState
from pipelines.submission import Package, data_addresses, pack
from simipu_core.errors import SimipuError
from tests.kfp_server import KfpServer, kfp_server
from tests.pipelines.kubeflow import ROOT, SCRATCH, alive, cli

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.timeout(300),
]
QUICK = Pace(poll_s=0.1, outage_timeout_s=60)
PATIENCE = 120


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KfpServer]:
    folder = tmp_path_factory.mktemp("kfp")
    (folder / "log").touch()
    fakes = f"{Path(__file__).with_name('fakes')}:{ROOT}"
    with kfp_server(folder, environment={"PYTHONPATH": fakes, "FAKE_LOG": str(folder / "log")}) as served:
        yield served


@pytest.fixture
def server(kubeflow: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    for name in os.environ:
        if name.startswith(("KFP_", "KF_PIPELINES_")) or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("KFP_ENDPOINT", kubeflow.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pipelines.follow.Pace", lambda: QUICK)
    before = dict(kubeflow.backend.environment)
    yield kubeflow
    kubeflow.backend.environment = before
    kubeflow.is_ui = False
    kubeflow.backend.largest = 2**20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "scan.bin").write_bytes(b"scan")
    return str(folder)


@pytest.fixture
def blocked(server: KfpServer, data: str) -> tuple[str, int]:
    """A run whose first step never ends, and the process of that step."""
    server.backend.environment["FAKE_BLOCK"] = "ingest"
    file = server.backend.folder / "pid"
    file.unlink(missing_ok=True)
    done = cli("submit", *SCRATCH, "--data", data, "--no-cache")
    assert done.code == 0, done.error
    until(lambda: file.is_file() and bool(file.read_text()))
    return done.out.split()[1], int(file.read_text())


InMlflow = list[tuple[str, str]]


@pytest.fixture
def in_mlflow(monkeypatch: pytest.MonkeyPatch) -> InMlflow:
    """MLflow is in reach; which runs were ended there, and how."""
    ended: InMlflow = []

    def end_killed(key: str, status: str) -> list[str]:
        ended.append((key, status))
        return ["pretrain"]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setitem(sys.modules, "simipu_core.tracking.pipeline_run", SimpleNamespace(end_killed=end_killed))
    return ended


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_a_run_is_followed_to_its_end(server: KfpServer, data: str) -> None:
    account = ("--service-account", "simipu-steps")
    done = cli("submit", *SCRATCH, "--data", data, "--wait", "--run-name", "my run", *account)
    assert done.code == 0, done.out + done.error
    run_id = done.out.split()[1]
    lines = done.out.splitlines()
    assert lines[:2] == [f"Run      {run_id}  my run", f"See      {server.url}/#/runs/details/{run_id}"]
    ended = [line.split(" · ")[0] for line in lines if "succeeded" in line]
    steps = ("configure", "ingest_depth", "pair_depth", "finetune", "evaluate")
    assert ended == [*(f"{step} succeeded" for step in steps), "my run succeeded."]
    assert f"every pod must see the folder {data};" in done.error
    run = server.backend.runs[run_id]
    assert run.description.startswith("demo, revision ")
    assert run.service_account == "simipu-steps"
    values = run.runtime_config.parameters
    assert re.fullmatch(rf"{data}#[0-9a-f]{{64}}", values["data_depth"])
    assert values.keys() == run.pipeline_spec["root"]["inputDefinitions"]["parameters"].keys()

    shown = cli("status", run_id).out
    assert "my run · succeeded" in shown
    assert re.search(r"finetune +│ succeeded +│ +\d+:\d\d", shown)
    listed = cli("status").out
    assert run_id in listed
    assert "my run" in listed

    again = cli("submit", *SCRATCH, "--data", data, "--wait")
    assert again.code == 0, again.out + again.error
    assert "evaluate cached" in again.out
    assert len(cli("status", "--limit", "1").out.splitlines()) == len(listed.splitlines())


def test_a_setting_of_the_form_reruns_only_the_steps_that_read_it(server: KfpServer, data: str) -> None:
    rows = chosen(SCRATCH[1], [SCRATCH[3]], data=data)
    package, client = pack(rows), Client(Connection(server.url))
    addresses = data_addresses(rows, package)

    def ended(settings: str) -> dict[str, str]:
        run_id = client.submit(package, "from the form", {**addresses, "settings": settings}).run_id
        console = Console(width=200, record=True)
        follow(client, run_id, console, QUICK)
        return dict(re.findall(r"^(\w+) (succeeded|cached|failed)", console.export_text(), re.MULTILINE))

    ended("")
    all_cached = dict.fromkeys(("configure", "ingest_depth", "pair_depth", "finetune", "evaluate"), "cached")
    assert ended("") == all_cached
    assert ended("evaluate.flip=false") == all_cached | {"configure": "succeeded", "evaluate": "succeeded"}
    assert ended("finetune.epochs=0")["configure"] == "failed"


def test_a_failing_step_gives_the_cause(server: KfpServer, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.backend.environment["FAKE_FAILURE"] = "ingest"
    done = cli("submit", *SCRATCH, "--data", data, "--wait", "--no-cache")
    cause = "error: ingest_depth: ingest_depth: nothing fits; mend it."
    assert done.code == 1
    assert done.out.splitlines()[-1] == cause
    assert "pair_depth not run" in done.out
    assert "Traceback" not in done.out + done.error

    run_id = done.out.split()[1]
    assert cli("status", run_id, "--wait").code == 1
    monkeypatch.setattr(server.backend, "log", lambda *_: b"line\n" * 2**20 + b"error: the last words\n")
    assert cli("status", run_id).out.splitlines()[-1] == "error: ingest_depth: the last words"
    monkeypatch.setattr(server.backend, "log", lambda *_: None)
    told = cli("status", run_id).out.splitlines()[-1]
    kubectl = f"kubectl logs -n kubeflow -l pipeline/runid={run_id} -c main --prefix"
    assert told == f"error: ingest_depth: failed; its log: {kubectl}"


def test_through_the_ui_too_the_cause_is_found(server: KfpServer, data: str) -> None:
    """From the pod under its own name, and once it is gone from what the launcher has stored."""
    server.backend.environment["FAKE_FAILURE"] = "ingest"
    server.is_ui = True
    done = cli("submit", *SCRATCH, "--data", data, "--wait", "--no-cache")
    cause = "error: ingest_depth: ingest_depth: nothing fits; mend it."
    assert (done.code, done.out.splitlines()[-1]) == (1, cause)
    run_id = done.out.split()[1]
    execution = server.backend.executions[run_id]
    before = len(server.requests)
    execution.pods_gone = True
    (node,) = (identity for key, identity, _ in execution.workflow(run_id).pods() if key.startswith("ingest"))
    assert cli("status", run_id).out.splitlines()[-1] == cause
    assert [path for path in server.requests[before:] if "log" in path or "artifacts" in path] == [
        f"GET /apis/v1alpha1/runs/{run_id}/nodes/{node}/log",
        "GET /k8s/pod/logs",
        "GET /artifacts/get",
    ]


def test_a_workflow_too_large_for_the_api_is_followed(server: KfpServer, data: str) -> None:
    server.backend.largest = 0
    done = cli("submit", *SCRATCH, "--data", data, "--wait", "--no-cache")
    assert done.code == 0, done.out + done.error
    run_id = done.out.split()[1]
    assert server.backend.run(run_id).run_details.task_details == []
    assert re.search(r"evaluate +│ succeeded", cli("status", run_id).out)


@pytest.mark.parametrize("whole", [True, False], ids=["pod", "process"])
def test_only_a_lost_pod_is_tried_again(server: KfpServer, data: str, whole: bool) -> None:
    """As Kubeflow configures Argo; what its container makes of a dead process is a failure."""
    server.backend.environment["FAKE_BLOCK"] = "ingest"
    file = server.backend.folder / "pid"
    file.unlink(missing_ok=True)
    rows = chosen(SCRATCH[1], [SCRATCH[3]], data=data)
    package = pack(rows, cache=False)
    pipeline = yaml.safe_load(package.text)
    for task in pipeline["root"]["dag"]["tasks"].values():
        task["retryPolicy"] = {"maxRetryCount": 2, "backoffDuration": "1s", "backoffFactor": 1}
    client = Client(Connection(server.url))
    retried = Package(yaml.safe_dump(pipeline))
    run_id = client.submit(retried, "retried", data_addresses(rows, package)).run_id
    until(lambda: file.is_file() and bool(file.read_text()))
    process = psutil.Process(int(file.read_text()))
    for victim in [process.parent(), process] if whole else [process]:
        assert victim is not None
        victim.kill()
    until(lambda: "attempt 2" in cli("status", run_id).out or server.backend.run(run_id).state == "FAILED")
    shown = cli("status", run_id).out
    if whole:
        assert re.search(r"ingest_depth +│ running, attempt 2", shown)
        assert "ingest_depth: the attempt before failed: its pod was deleted" in shown
        server.backend.executions[run_id].kill()
    else:
        assert re.search(r"ingest_depth +│ failed +│", shown)


def test_a_pod_that_cannot_start_is_told(server: KfpServer, blocked: tuple[str, int]) -> None:
    run_id, _ = blocked
    server.backend.executions[run_id].waiting = "Unschedulable: 0/3 nodes are available: 3 Insufficient memory."
    done = cli("status", run_id)
    assert re.search(r"ingest_depth +│ pending", done.out)
    assert "ingest_depth: Unschedulable: 0/3 nodes are available: 3 Insufficient memory." in done.out
    server.backend.executions[run_id].kill()


def test_a_step_that_breaks_off_shows_the_end_of_its_log(server: KfpServer, data: str) -> None:
    server.backend.environment["FAKE_CRASH"] = "ingest"
    done = cli("submit", *SCRATCH, "--data", data, "--wait", "--no-cache")
    assert done.code == 1
    assert done.out.splitlines()[-2:] == [
        "RuntimeError: something broke",
        "error: ingest_depth: failed, see the lines above",
    ]


def test_a_cancelled_run_really_stops(server: KfpServer, blocked: tuple[str, int], in_mlflow: InMlflow) -> None:
    run_id, pid = blocked
    assert re.search(r"ingest_depth +│ running", cli("status", run_id).out)
    assert in_mlflow == []
    done = cli("cancel", run_id, "--wait")
    assert in_mlflow == [(run_id, "KILLED")]
    assert "Ended in MLflow, where they were left open: pretrain" in done.out
    assert done.code == 3, done.out + done.error
    assert f"Run {run_id} is being stopped" in done.out
    assert "was cancelled." in done.out
    assert not alive(pid)
    assert server.backend.run(run_id).state == "FAILED"
    assert "canceled" in cli("status").out
    assert cli("cancel", run_id).out == f"Run {run_id} had ended already\n"


def test_a_server_that_comes_back_is_followed_on(server: KfpServer, blocked: tuple[str, int], tmp_path: Path) -> None:
    run_id, _ = blocked
    client = Client(Connection(server.url))
    file = tmp_path / "shown"
    outcomes: list[Outcome] = []
    with file.open("w", buffering=1) as shown:
        console = Console(file=shown, width=200)
        follower = threading.Thread(target=lambda: outcomes.append(follow(client, run_id, console, QUICK)))
        follower.start()
        until(lambda: "ingest_depth running" in file.read_text())
        server.stop()
        until(lambda: "Trying again" in file.read_text())
        server.start()
        Client(Connection(server.url)).cancel(run_id)
        follower.join(PATIENCE)
    assert outcomes == [Outcome.CANCELED]
    assert file.read_text().count("Trying again for 1:00") == 1


def test_a_server_that_stays_away_leaves_the_end_unknown(
    server: KfpServer, blocked: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, _ = blocked
    client = Client(Connection(server.url, read_timeout_s=3))
    console = Console(width=300, record=True)
    server.stop()
    try:
        assert follow(client, run_id, console, Pace(poll_s=0.05, outage_timeout_s=0.2)) == Outcome.UNKNOWN
    finally:
        server.start()
    shown = console.export_text()
    assert "How the run ends is not known; it may go on." in shown
    assert f"Follow it with `python -m pipelines status {run_id} --wait`" in shown
    assert server.backend.run(run_id).state == "RUNNING"
    server.fault = server.hang
    try:
        assert follow(client, run_id, console, Pace(poll_s=0.05, outage_timeout_s=0)) == Outcome.UNKNOWN
    finally:
        server.fault = None
    assert "does not answer within 3 s. Trying again" in console.export_text()
    server.token = "right"
    try:
        assert follow(client, run_id, console, QUICK) == Outcome.UNKNOWN  # at once: asking again would not help
    finally:
        server.token = None
    server.backend.executions[run_id].kill()


def test_a_token_file_that_is_gone_leaves_the_end_unknown() -> None:
    def unreadable(_: str) -> None:
        raise SimipuError("KFP_TOKEN_FILE: token cannot be read.")

    console = Console(width=300, record=True)
    assert follow(cast(Client, SimpleNamespace(run=unreadable)), "1", console, QUICK) == Outcome.UNKNOWN
    assert "error: KFP_TOKEN_FILE: token cannot be read." in console.export_text()


@pytest.mark.parametrize(
    ("history", "status"),
    [
        (["RUNNING", "SUCCEEDED"], "FINISHED"),
        (["RUNNING", "FAILED"], "FAILED"),
        (["RUNNING", "CANCELING", "FAILED"], "KILLED"),
        (["RUNNING"], None),
    ],
)
def test_what_is_left_open_in_mlflow_ends_as_the_run_did(
    in_mlflow: InMlflow, history: list[str], status: str | None
) -> None:
    states = [SimpleNamespace(state=each, update_time=1) for each in history]
    end_tracking(SimpleNamespace(run_id="1", state=history[-1], state_history=states), Console(record=True))
    assert in_mlflow == ([("1", status)] if status else [])


def test_an_mlflow_that_is_away_is_no_error(in_mlflow: InMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise SimipuError("MLflow at x cannot be used (it is away); check MLFLOW_TRACKING_URI.")

    monkeypatch.setattr(sys.modules["simipu_core.tracking.pipeline_run"], "end_killed", refuse)
    run, console = SimpleNamespace(run_id="1", state="FAILED", state_history=[]), Console(record=True, width=200)
    end_tracking(run, console)
    assert console.export_text().startswith("warning: MLflow at x cannot be used")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    end_tracking(run, console)
    assert console.export_text() == ""


def test_an_mlflow_that_does_not_answer_is_not_waited_for(in_mlflow: InMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    tracking = sys.modules["simipu_core.tracking.pipeline_run"]
    monkeypatch.setattr(tracking, "end_killed", lambda *_: over.wait())
    monkeypatch.setattr("pipelines.follow._MLFLOW_S", 0.05)
    run = SimpleNamespace(run_id="1", display_name="demo", state="FAILED", state_history=[], error=None)
    client = SimpleNamespace(run=lambda _: run, steps=lambda _: [], url=lambda *_: "http://kubeflow")
    console = Console(record=True, width=200)
    assert follow(cast(Client, client), "1", console) == Outcome.FAILED
    over.set()
    cause, warning = console.export_text().splitlines()
    assert cause == "error: demo failed; http://kubeflow"
    assert warning.startswith("warning: MLflow does not answer within 0.05 s")


def test_an_interrupt_leaves_the_run_alone(
    server: KfpServer, blocked: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pid = blocked

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.follow.time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))
    done = cli("status", run_id, "--wait")
    assert done.code == 130
    assert "The run goes on. Follow it with `python -m pipelines status" in done.out
    assert f"stop it with `python -m pipelines cancel {run_id}`" in done.out
    assert alive(pid)
    server.backend.executions[run_id].kill()


def test_a_terminal_shows_the_steps_in_a_table(server: KfpServer, data: str) -> None:
    console = Console(force_terminal=True, width=100, record=True)
    client = Client(Connection(server.url))
    done = cli("submit", *SCRATCH, "--data", data)
    assert follow(client, done.out.split()[1], console, QUICK) == Outcome.SUCCEEDED
    shown = console.export_text()
    assert re.search(r"evaluate +│ (cached|succeeded) +│ +0:\d\d", shown)


def test_a_schedule_starts_a_run(server: KfpServer, data: str) -> None:
    made = cli("schedule", *SCRATCH, "--data", data, "--every", "1d", "--name", "nightly")
    assert made.code == 0, made.error
    run = server.backend.fire(made.out.split()[1])
    done = cli("status", run.run_id, "--wait")
    assert done.code == 0
    assert re.search(r"^ingest_depth (cached|succeeded)", done.out, flags=re.MULTILINE)  # by the version's names
    assert cli("status").out.count(run.display_name) == 1
    values = server.backend.runs[run.run_id].runtime_config.parameters
    assert (
        values.keys()
        == next(iter(server.backend.versions.values())).pipeline_spec["root"]["inputDefinitions"]["parameters"].keys()
    )


class TestUnscheduling:
    """While a run of the schedule is under way."""

    @pytest.fixture
    def scheduled(self, server: KfpServer, data: str) -> Iterator[tuple[str, str]]:
        server.backend.environment["FAKE_BLOCK"] = "ingest"
        made = cli("schedule", *SCRATCH, "--data", data, "--every", "1d", "--name", "hourly", "--no-cache")
        assert made.code == 0, made.error
        schedule_id = made.out.split()[1]
        run = server.backend.fire(schedule_id)
        until(lambda: "running" in cli("status", run.run_id).out)
        yield schedule_id, run.run_id
        server.backend.recurring.pop(schedule_id, None)
        server.backend.executions[run.run_id].kill()
        server.backend.version = (2, 17)

    def test_the_run_goes_on(self, server: KfpServer, scheduled: tuple[str, str]) -> None:
        schedule_id, run_id = scheduled
        assert cli("unschedule", schedule_id).code == 0
        assert schedule_id not in server.backend.recurring
        assert cli("cancel", run_id, "--wait").code == 3  # so there was something to stop

    def test_an_older_server_keeps_the_schedule_paused(self, server: KfpServer, scheduled: tuple[str, str]) -> None:
        schedule_id, run_id = scheduled
        server.backend.version = (2, 15)
        done = cli("unschedule", schedule_id)
        assert done.code == 1
        assert f"is paused, not deleted: with it this server would kill the runs that it has started, {run_id}" in (
            done.error
        )
        assert server.backend.recurring[schedule_id].status == "DISABLED"
        assert cli("cancel", run_id, "--wait").code == 3
        assert cli("unschedule", schedule_id).code == 0
        assert schedule_id not in server.backend.recurring

    def test_a_run_that_another_client_has_killed_with_it_is_told(
        self, server: KfpServer, scheduled: tuple[str, str]
    ) -> None:
        schedule_id, run_id = scheduled
        server.backend.delete_recurring(schedule_id, {})
        assert server.backend.run(run_id).state == "RUNNING"
        assert "cannot be stopped: its workflow is gone" in cli("cancel", run_id).error


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (4.6, "0:05"), (65, "1:05"), (3723, "1:02:03")])
def test_clock(seconds: float | None, text: str) -> None:
    assert clock(seconds) == text


def test_names_of_steps_are_shown_as_they_are() -> None:
    console = Console(record=True, width=80)
    console.print(steps_table(SimpleNamespace(display_name="[/x]", state="RUNNING"), [StepState("[/y]", "[/z]")]))
    shown = console.export_text()
    assert all(name in shown for name in ("[/x]", "[/y]", "[/z]"))
