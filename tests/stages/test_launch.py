"""Training in several processes, as a step on a machine with several GPUs runs it; here over gloo on CPUs.

Every process imports this module, so it must be light.
"""

import errno
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from simipu_core.errors import InterruptionError, SimipuError
from simipu_core.stages.launch import launch
from simipu_core.tracking.run import Run, SilentRun
from tests.samples import pair_row, tiny_pretrain, write_shards

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def note(folder: Path, *, run: Run, words: str) -> None:
    (folder / os.environ.get("RANK", "alone")).write_text(f"{words} {os.environ.get('WORLD_SIZE')} {run.run_id}")


def refuse(folder: Path, *, run: Run) -> None:
    if os.environ["RANK"] == "1":
        raise SimipuError(f"{folder.name}: nothing fits; mend it.")


def die(*, run: Run) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def wait_for_the_end(folder: Path, *, run: Run) -> None:
    from simipu_core.termination import termination

    with termination() as end:
        (folder / f"ready-{os.environ['RANK']}").touch()
        while not end.is_asked:
            signal.pause()
    raise SimipuError(f"stopped by SIGTERM, with a checkpoint in {folder.name}.")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_PROCESSES", "2")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def test_one_process_is_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SIMIPU_PROCESSES", raising=False)
    launch(note, tmp_path, run=SilentRun(), words="done")
    assert (tmp_path / "alone").read_text() == "done None None"


@pytest.mark.parametrize("number", ["0", "-1", "two", ""])
def test_a_wrong_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: str) -> None:
    monkeypatch.setenv("SIMIPU_PROCESSES", number)
    with pytest.raises(SimipuError, match=f"SIMIPU_PROCESSES={number}: must be the number of training processes"):
        launch(note, tmp_path, run=SilentRun(), words="")


@pytest.mark.usefixtures("two")
def test_every_process_calls_the_stage(tmp_path: Path) -> None:
    launch(note, tmp_path, run=SilentRun(), words="done")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"0": "done 2 None", "1": "done 2 None"}


@pytest.mark.usefixtures("two")
def test_what_a_process_says_reaches_the_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SimipuError) as caught:
        launch(refuse, tmp_path, run=SilentRun())
    assert str(caught.value) == f"{tmp_path.name}: nothing fits; mend it."
    assert "Traceback" not in capfd.readouterr().err


def fill_the_disk(*, run: Run) -> None:
    """Nothing more can be written, the message neither."""

    def write_file(file: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    sys.modules[launch.__module__].__dict__["write_file"] = write_file  # this is a process of its own
    write_file(Path("out"), b"")


def test_a_full_disk_is_told_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", '{"times": 1, "wait": 600, "factor": 1, "within": 6000}')
    with pytest.raises(SimipuError, match="training process 0 stopped; the lines above say why") as caught:
        launch(fill_the_disk, run=SilentRun())
    assert not isinstance(caught.value, InterruptionError)
    assert capfd.readouterr().err == "error: out: the disk is full; free space and run it again.\n"


@pytest.mark.usefixtures("two")
def test_a_killed_process_ends_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SimipuError, match="training process 1 was killed, most likely for want of memory"):
        launch(die, run=SilentRun())
    assert "Traceback" not in capfd.readouterr().err


def _launch_and_answer(folder: Path, answers: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        launch(wait_for_the_end, folder, run=SilentRun())
    except SimipuError as error:
        answers.put(str(error))


@pytest.mark.usefixtures("two")
def test_sigterm_reaches_every_process_and_what_they_say_comes_back(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    step = context.Process(target=_launch_and_answer, args=(tmp_path, answers))
    step.start()
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert step.is_alive()
        step.join(0.05)
    step.terminate()
    step.join(60)
    assert step.exitcode == 0
    assert answers.get() == f"stopped by SIGTERM, with a checkpoint in {tmp_path.name}."


@pytest.mark.slow
@pytest.mark.usefixtures("two")
def test_two_processes_train_and_the_first_one_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    from simipu_core.artifacts import read_manifest
    from simipu_core.stages.pretrain import pretrain
    from simipu_core.tracking.mlflow_run import step

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SIMIPU_STEP", "pretrain")
    pairs = write_shards(tmp_path / "pairs", "pairs", pairs=[pair_row(seed) for seed in range(8)])
    config = tiny_pretrain(batch_size=4, device="cpu", probe={"every_epochs": 0}, log_every=1)
    with step("pretrain") as run:
        launch(pretrain, pairs, config, tmp_path / "encoder", run=run, checkpoints=tmp_path / "checkpoints")
    manifest = read_manifest(tmp_path / "encoder", "encoder")
    assert (manifest.counts["steps"], manifest.mlflow_run_id) == (2, run.run_id)
    recorded = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run.id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["batch_size"] == "4"
    assert len(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs([recorded.info.experiment_id])) == 1


def lose_a_rank_once(folder: Path, *, run: Run) -> None:
    rank = os.environ["RANK"]
    if (folder / "lost").exists():
        (folder / f"done-{rank}").touch()
    elif rank == "1":
        (folder / "lost").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        while not (folder / "lost").exists():
            signal.sigtimedwait([], 0.05)
        raise InterruptionError(f"rank {rank}: another rank stopped or does not answer.")


@pytest.mark.usefixtures("two")
def test_when_a_process_is_lost_all_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", '{"times": 1, "wait": 0, "factor": 1, "within": 600}')
    launch(lose_a_rank_once, tmp_path, run=SilentRun())
    assert {path.name for path in tmp_path.iterdir()} == {"lost", "done-0", "done-1"}
