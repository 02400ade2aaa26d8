import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from simipu_core.termination import REQUESTS, ended_by_signal, termination


@pytest.fixture(autouse=True)
def _as_in_the_foreground() -> Iterator[None]:
    """What runs in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("sent", REQUESTS)
def test_a_signal_ends_the_block_in_order_and_only_once(
    sent: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[str] = []
    before = signal.getsignal(sent)

    def work() -> None:
        try:
            with ended_by_signal():
                os.kill(os.getpid(), sent)
        finally:
            os.kill(os.getpid(), sent)
            os.kill(os.getpid(), signal.SIGTERM)
            left.append("in order")

    with pytest.raises(SystemExit) as ended, ended_by_signal():
        work()
    assert (ended.value.code, left) == (128 + sent, ["in order"])
    assert capfd.readouterr().err == f"error: stopped by {sent.name}.\n"
    assert signal.getsignal(sent) == before


def test_pressing_again_does_not_wait_for_that_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(name: str) -> None:
        with termination() as ending:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)  # the same press
            assert (ending.is_asked, ending.name) == (True, name)
            monkeypatch.setattr("simipu_core.termination._ONE_PRESS_S", -1.0)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work("SIGINT")


def test_what_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signal(), termination() as ending:
            signal.raise_signal(signal.SIGHUP)
            assert not ending.is_asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_of_the_terminal_is_survived() -> None:
    """What is written to it afterwards goes nowhere, and raises nothing."""
    script = (
        "import os, time\n"
        "from simipu_core.errors import StoppedError, plain_errors\n"
        "from simipu_core.termination import termination\n"
        "with plain_errors(), termination() as ending:\n"
        "    os.write(1, b'begun')\n"
        "    while not ending.is_asked:\n"
        "        time.sleep(0.01)\n"
        "    print('progress', flush=True)\n"
        "    raise StoppedError('saved.', ending.signal)\n"
    )
    controller, terminal = os.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        assert os.read(controller, 5) == b"begun"
        os.close(controller)
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 129


def test_work_that_finishes_first_is_not_ended() -> None:
    with ended_by_signal(), termination() as ending:
        os.kill(os.getpid(), signal.SIGTERM)
        assert ending.is_asked
