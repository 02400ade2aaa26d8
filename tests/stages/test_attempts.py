"""Further attempts at a training whose process dies, within its step."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from simipu_core.errors import InterruptionError, SimipuError, StoppedError
from simipu_core.stages import attempts
from simipu_core.stages.launch import launch
from simipu_core.tracking.run import Run, SilentRun

NODE = "simipu-ab1cd(0).root(0).pretrain({wrapper}).executor({pod})"


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what a step of a pipeline run finds; called again, it is the step's next pod."""
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("SIMIPU_STEP", "pretrain")
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", "f00d")
    monkeypatch.delenv("SIMIPU_PROCESSES", raising=False)

    def begin(times: int = 2, *, wrapper: int = 0, pod: int = 0, wait: float = 0, within: float = 600) -> None:
        retry = {"times": times, "wait": wait, "factor": 2, "within": within}
        monkeypatch.setenv("SIMIPU_RETRY", json.dumps(retry))
        monkeypatch.setenv("SIMIPU_WORKFLOW_NODE", NODE.format(wrapper=wrapper, pod=pod))

    begin()
    return begin


class Training:
    """Counts attempts, and is interrupted in the first `deaths` of them."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.begun = deaths, 0

    def __call__(self) -> None:
        self.begun += 1
        if self.begun <= self.deaths:
            raise InterruptionError("killed")


def test_without_a_wish_there_is_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMIPU_RETRY", raising=False)
    training = Training(deaths=1)
    with pytest.raises(InterruptionError, match="killed"):
        attempts.repeat(training, "pretrain")
    assert training.begun == 1


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_an_interrupted_training_is_begun_again(deaths: int, tmp_path: Path) -> None:
    training = Training(deaths)
    attempts.repeat(training, "pretrain")
    assert training.begun == deaths + 1
    assert not list((tmp_path / "checkpoints").rglob("*.json"))


@pytest.mark.usefixtures("step")
def test_as_often_as_stated_and_no_more() -> None:
    training = Training(deaths=9)
    with pytest.raises(InterruptionError, match="killed"):
        attempts.repeat(training, "pretrain")
    assert training.begun == 3


@pytest.mark.usefixtures("step")
def test_what_was_refused_is_not_tried_again() -> None:
    begun = []

    def refuse() -> None:
        begun.append(1)
        raise SimipuError("nothing fits; mend it.")

    with pytest.raises(SimipuError, match="nothing fits"):
        attempts.repeat(refuse, "pretrain")
    assert len(begun) == 1


def test_servers_that_begin_the_step_again_do_not_multiply_attempts(step: Callable[..., None]) -> None:
    """As with `retryPolicy: Always` of Kubeflow's controller: three pods, and all of it once more by a wrapper."""
    training = Training(deaths=99)
    for wrapper in range(3):
        for pod in range(3):
            step(2, wrapper=wrapper, pod=pod)
            with pytest.raises(InterruptionError):
                attempts.repeat(training, "pretrain")
    assert training.begun == 3
    step(2, wrapper=0, pod=0)  # by a person, who chose Retry
    with pytest.raises(InterruptionError):
        attempts.repeat(training, "pretrain")
    assert training.begun == 6


def test_a_pod_that_was_lost_counts_as_an_attempt(step: Callable[..., None]) -> None:
    class LostError(BaseException):
        """The pod is gone, and whatever ran in it."""

    def lost() -> None:
        raise LostError

    with pytest.raises(LostError):
        attempts.repeat(lost, "pretrain")
    step(2, pod=1)
    training = Training(deaths=9)
    with pytest.raises(InterruptionError):
        attempts.repeat(training, "pretrain")
    assert training.begun == 2
    step(2, pod=2)
    with pytest.raises(
        InterruptionError, match=r"3 attempts were interrupted in this run, all that retry.times 2 allows"
    ):
        attempts.repeat(training, "pretrain")
    assert training.begun == 2


@pytest.mark.parametrize("count", [None, b'{"be', b"[]", b"\xff", b'{"begun": "x"}'])
def test_where_pods_do_not_see_the_count_of_those_before_attempts_do_not_multiply(
    step: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: bytes | None
) -> None:
    training = Training(deaths=99)
    for pod in range(4):
        monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path / f"pod-{pod}"))
        step(3, pod=pod)
        if count is not None:
            file = tmp_path / f"pod-{pod}" / "attempts" / "f00d" / "pretrain" / "attempts.json"
            file.parent.mkdir(parents=True)
            file.write_bytes(count)
        with pytest.raises(
            SimipuError, match="set SIMIPU_CHECKPOINTS to a place that all pods see" if pod else "killed"
        ):
            attempts.repeat(training, "pretrain")
    assert training.begun == 4


def test_no_attempt_begins_later_than_stated(step: Callable[..., None]) -> None:
    step(2, wait=5, within=1)
    training = Training(deaths=9)
    with pytest.raises(InterruptionError, match="killed"):
        attempts.repeat(training, "pretrain")
    assert training.begun == 1


def test_waits_grow(
    step: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step(3, wait=10)
    waits: list[float] = []
    monkeypatch.setattr(attempts, "_sleep", lambda seconds, name: waits.append(seconds))
    attempts.repeat(Training(deaths=3), "pretrain")
    assert waits == [10, 20, 40]
    assert "pretrain: killed\npretrain: attempt 2 of 4 begins in 10 s" in capsys.readouterr().out


def test_sigterm_between_two_attempts_ends_the_step(step: Callable[..., None]) -> None:
    step(2, wait=60)
    training = Training(deaths=9)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SimipuError, match="stopped by SIGTERM between two attempts"):
        attempts.repeat(training, "pretrain")
    assert training.begun == 1


@pytest.mark.parametrize("wish", ["3", '{"times": 20, "wait": 1, "factor": 100000000000000000, "within": 1}'])
def test_a_wish_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("SIMIPU_RETRY", wish)
    with pytest.raises(SimipuError, match=rf"^SIMIPU_RETRY={wish}: write"):
        attempts.requested()


# -- in real processes -----------------------------------------------------------------------------------------------


def count_down(folder: Path, *, run: Run, how: str, deaths: int) -> None:
    """Trains from its last checkpoint, a file's length; dies in its first attempts."""
    log = folder / "steps"
    begun = len(list(folder.glob("begun-*")))
    (folder / f"begun-{begun}").touch()
    with log.open("a") as steps:
        steps.write("x")
    if begun < deaths:
        if how == "exit":
            sys.exit(3)
        if how == "error":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)


def refuse(folder: Path, *, run: Run) -> None:
    (folder / f"begun-{len(list(folder.glob('begun-*')))}").touch()
    raise SimipuError("nothing fits; mend it.")


def wait_for_the_end(folder: Path, *, run: Run) -> None:
    from simipu_core.termination import termination

    with termination() as end:
        (folder / "begun-0").touch()
        while not end.is_asked:
            signal.pause()
    raise InterruptionError("stopped by SIGTERM, with a checkpoint.")


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit", "error"])
def test_a_process_that_dies_is_started_again(how: str, tmp_path: Path) -> None:
    launch(count_down, tmp_path, run=SilentRun(), how=how, deaths=1)
    assert (tmp_path / "steps").read_text() == "xx"


@pytest.mark.usefixtures("step")
def test_a_process_that_is_always_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError, match="training process 0 was killed, most likely for want of memory"):
        launch(count_down, tmp_path, run=SilentRun(), how="SIGKILL", deaths=9)
    assert len(list(tmp_path.glob("begun-*"))) == 3


@pytest.mark.usefixtures("step")
def test_what_a_process_refuses_reaches_the_step_once(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match=r"^nothing fits; mend it\.$"):
        launch(refuse, tmp_path, run=SilentRun())
    assert len(list(tmp_path.glob("begun-*"))) == 1


@pytest.mark.usefixtures("step")
def test_sigterm_reaches_the_process_and_no_other_is_started(tmp_path: Path) -> None:
    def terminate() -> None:
        while not (tmp_path / "begun-0").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(SimipuError, match=r"^stopped by SIGTERM, with a checkpoint\.$") as caught:
        launch(wait_for_the_end, tmp_path, run=SilentRun())
    assert isinstance(caught.value, StoppedError)  # which is not tried again
    assert len(list(tmp_path.glob("begun-*"))) == 1
