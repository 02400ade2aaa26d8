import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from simipu_core.errors import SimipuError
from simipu_core.tracking import delivery, mlflow_run, outbox
from simipu_core.tracking.delivery import Entry, deliver, is_refusal, merged, read_entries
from simipu_core.tracking.mlflow_run import UNSENT, connect, step, tracking_uri
from simipu_core.tracking.outbox import Outbox, adopt, send_file

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def number(index: int) -> Entry:
    return Entry(run_id="r", kind="metrics", metrics=(("loss", index / 7, 1000 + index, index),))


def said_by_the_server(code: str, message: str) -> MlflowException:
    return RestException({"error_code": code, "message": message})  # type: ignore[no-untyped-call]


class Server:
    """Takes entries, unless it is told to be away or to hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where outboxes lie that send to it."""
        self.entries: list[Entry] = []
        self.is_up = threading.Event()
        self.is_up.set()
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def take(self, entry: Entry) -> None:
        self.asked.set()
        self.answers.wait()
        if not self.is_up.is_set():
            raise ConnectionError("connection refused")
        self.entries.append(entry)

    @property
    def steps(self) -> list[int]:
        return [step for entry in self.entries for *_, step in entry.metrics]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(outbox, "SEND_EVERY", 0.01)
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    return Server(tmp_path / "outboxes")


def test_entries_arrive_in_order_and_travel_together(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SEND_EVERY", 60.0)
    box = Outbox(server.take, "here", server.folder)
    box.put(Entry(run_id="r", kind="params", values={"a": "1"}))
    for index in range(100):
        box.put(number(index))
    box.put(Entry(run_id="r", kind="end", name="FINISHED"))
    assert box.close(60) == []
    assert [entry.kind for entry in server.entries] == ["params", "metrics", "end"]
    assert server.steps == list(range(100))


@pytest.mark.parametrize(
    ("code", "refusals", "asked"), [("BAD_REQUEST", 2, 3), ("BAD_REQUEST", 9, 3), ("INVALID_STATE", 9, 1)]
)
def test_what_a_database_may_have_stumbled_over_is_sent_again(
    code: str, refusals: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_RETRY_PAUSES_S", (0.0, 0.0))
    answers = [said_by_the_server(code, "(psycopg2.errors.UniqueViolation)")] * refusals
    client = Mock(spec=MlflowClient)
    client.log_batch.side_effect = [*answers, None]
    if refusals >= asked:
        with pytest.raises(MlflowException) as refused:
            deliver(client, number(0))
        assert is_refusal(refused.value)
    else:
        deliver(client, number(0))
    assert client.log_batch.call_count == asked


def test_nothing_waits_for_a_slow_server(server: Server) -> None:
    server.answers.clear()
    box = Outbox(server.take, "here", server.folder)
    box.put(number(0))
    assert server.asked.wait(60)
    for index in range(1, 2000):  # would never end if it waited: the server does not answer
        box.put(number(index))
    assert server.entries == []
    server.answers.set()
    assert box.close(60) == []
    assert server.steps == list(range(2000))


def test_what_comes_while_the_server_is_away_is_sent_later(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.is_up.clear()
    box = Outbox(server.take, "here", server.folder)
    for index in range(10):
        box.put(number(index))
    assert server.asked.wait(60)
    for index in range(10, 20):
        box.put(number(index))
    server.is_up.set()
    assert box.close(60) == []
    assert server.steps == list(range(20))
    said = capsys.readouterr().err
    assert "MLflow at here does not take numbers now (connection refused); they are kept and sent later." in said
    assert "MLflow at here takes numbers again." in said


def test_the_rest_is_handed_back(server: Server, tmp_path: Path) -> None:
    server.is_up.clear()
    box = Outbox(server.take, "here", server.folder)
    for index in range(5):
        box.put(number(index))
    rest = box.close(0.1)
    (file := tmp_path / "rest.jsonl").write_text("".join(rest))
    assert [entry.metrics[0][3] for entry in read_entries(file)] == list(range(5))
    server.is_up.set()
    assert send_file(file, server.take) == (1, 0)
    assert server.steps == list(range(5))


def test_a_server_that_never_answers_does_not_hold_up_the_end(server: Server) -> None:
    server.answers.clear()
    box = Outbox(server.take, "here", server.folder)
    box.put(number(0))
    assert server.asked.wait(60)
    assert len(box.close(0.1)) == 1
    server.answers.set()


def test_a_refused_entry_does_not_stop_the_others(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    def take(entry: Entry) -> None:
        if entry.kind == "params":
            raise said_by_the_server("INVALID_PARAMETER_VALUE", "changing param values")
        server.take(entry)

    box = Outbox(take, "here", server.folder)
    box.put(number(0))
    box.put(Entry(run_id="r", kind="params", values={"a": "1"}))
    box.put(number(1))
    assert box.close(60) == []
    assert server.steps == [0, 1]
    assert "refused 1 entries of this run (INVALID_PARAMETER_VALUE: changing param values)" in capsys.readouterr().err


def test_the_disk_is_not_filled(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outbox, "LIMIT_BYTES", 1000)
    server.is_up.clear()
    box = Outbox(server.take, "here", server.folder)
    for index in range(100):
        box.put(number(index))
    box.put(Entry(run_id="r", kind="end", name="FINISHED"))  # is kept all the same
    server.is_up.set()
    assert box.close(60) == []
    kept = server.steps
    assert kept[:5] == list(range(5))
    assert kept == sorted(set(kept))
    assert len(kept) < 50
    assert server.entries[-1].kind == "end"
    assert f"{100 - len(kept)} entries were not recorded" in capsys.readouterr().err


def test_a_full_disk_stops_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits moves to memory."""
    pwrite = os.pwrite

    def cut(descriptor: int, data: bytes, offset: int) -> int:
        is_file = Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(server.folder)
        return pwrite(descriptor, data[: max(200 - offset, 0)] if is_file else data, offset)

    monkeypatch.setattr(os, "pwrite", cut)
    server.is_up.clear()
    box = Outbox(server.take, "here", server.folder)
    for index in range(100):
        box.put(number(index))
    box.put(Entry(run_id="r", kind="end", name="FINISHED"))
    server.is_up.set()
    assert box.close(60) == []
    assert server.steps == list(range(100))
    assert server.entries[-1].kind == "end"
    assert list(server.folder.iterdir()) == []


def test_entries_wait_in_memory_where_there_is_no_place_for_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    box = Outbox(server.take, "here", tmp_path / "file" / "folder")
    box.put(number(0))
    assert box.close(60) == []
    assert server.steps == [0]


def test_what_a_killed_process_leaves_is_sent_by_the_next_and_its_runs_are_ended(server: Server) -> None:
    living = Outbox(server.take, "here", server.folder, ["living"])
    killed = os.fork()
    if not killed:  # its thread is gone, as if the server had been away
        box = Outbox(server.take, "here", server.folder, ["r", "parent"])
        with box._changed:
            for index in range(3):
                box.put(number(index))
            assert box._file
            with box._file.open("ab") as file:
                file.write(b'{"run_id":"r","ki')  # it was just writing
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    ended: list[str] = []
    server.is_up.clear()
    with pytest.raises(ConnectionError):
        adopt(server.folder, server.take, ended.append)
    assert (server.entries, ended) == ([], [])
    server.is_up.set()
    assert adopt(server.folder, server.take, ended.append) == 1
    assert (server.steps, ended) == ([0, 1, 2], ["r", "parent"])
    assert adopt(server.folder, server.take, ended.append) == 0
    assert living.close(60) == []
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"3", b'["r"]\n{}\n\xff\n'])
def test_a_damaged_file_of_a_killed_process_is_removed(server: Server, content: bytes) -> None:
    server.folder.mkdir()
    (server.folder / "0.outbox.jsonl").write_bytes(content)
    ended: list[str] = []
    adopt(server.folder, server.take, ended.append)
    assert ended == (["r"] if b"r" in content else [])
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ConnectionError("refused"), False),
        (MlflowException("API request to http://x failed", error_code=5), False),
        (said_by_the_server("INTERNAL_ERROR", "database is away"), False),
        (said_by_the_server("UNAUTHENTICATED", "token expired"), False),
        (said_by_the_server("TEMPORARILY_UNAVAILABLE", "later"), False),
        (said_by_the_server("RESOURCE_DOES_NOT_EXIST", "no such run"), True),
        (MlflowException("no", error_code=1000), True),
    ],
)
def test_refusals_are_told_from_absence(error: Exception, refused: bool) -> None:
    assert is_refusal(error) is refused


def test_numbers_of_different_runs_are_not_joined() -> None:
    entries = [number(0), number(1), number(2).model_copy(update={"run_id": "s"}), number(3)]
    assert [len(entry.metrics) for entry in merged(entries)] == [2, 1, 1]


def test_a_step_whose_server_goes_away_leaves_a_file_that_can_be_sent(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.parent.is_dir()
    monkeypatch.setattr(mlflow_run, "_PATIENCE", 0.1)
    monkeypatch.setattr(mlflow_run, "deliver", _away)
    panel = tmp_path / "panel.png"
    panel.write_bytes(b"\x89PNG")
    out = tmp_path / "encoder"
    with step("pretrain", "away", out=out) as run:
        out.mkdir()
        run.log_params({"epochs": 3})
        run.log_metrics({"loss": float("nan")}, 0)
        run.log_metrics({"loss": 0.5}, 1)
        run.log_input("pairs", "ab" * 32, "training")
        run.log_file(panel, "panels")
    client = MlflowClient(tracking_uri())
    assert client.get_run(run.id).info.status == "RUNNING"
    file = out / UNSENT
    assert f"run `simipu tracking send {file}`" in capsys.readouterr().err
    for _ in range(2):  # sending twice changes nothing
        assert send_file(file, partial(deliver, connect())) == (5, 0)
        made = client.get_run(run.id)
        assert made.info.status == "FINISHED"
        assert made.data.params["epochs"] == "3"
        assert [point.step for point in client.get_metric_history(run.id, "loss")] == [0, 1]
        assert made.inputs is not None
        assert len(made.inputs.dataset_inputs) == 1
    assert [path.read_bytes() for path in (store / "artifacts" / run.id).rglob("panel.png")] == [b"\x89PNG"]


def test_a_failed_step_without_an_artifact_leaves_its_file_beside(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.parent.is_dir()
    monkeypatch.setattr(mlflow_run, "_PATIENCE_AFTER_FAILURE", 0.1)
    monkeypatch.setattr(mlflow_run, "deliver", _away)
    with pytest.raises(SimipuError, match="the disk is full"), step("pretrain", "away", out=tmp_path / "encoder"):
        raise SimipuError("the disk is full.")
    lines = (tmp_path / f"encoder.{UNSENT}").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["tags", "end"]


def test_other_files_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}\n")
    with pytest.raises(SimipuError, match="line 1 is no tracking entry"):
        send_file(tmp_path / "other", _away_now)
    with pytest.raises(SimipuError, match="cannot be read"):
        send_file(tmp_path / "nothing", _away_now)


def _away(client: MlflowClient, entry: Entry) -> None:
    raise ConnectionError("connection refused")


def _away_now(entry: Entry) -> None:
    raise AssertionError
