import os
import signal
import subprocess
import sys

import pytest

from simipu_core.termination import ended_by_sigterm, termination


def test_sigterm_ends_the_block_in_order_and_only_once(capfd: pytest.CaptureFixture[str]) -> None:
    left: list[str] = []
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            left.append("in order")

    with pytest.raises(SystemExit) as ended, ended_by_sigterm():
        work()
    assert (ended.value.code, left) == (143, ["in order"])
    assert capfd.readouterr().err == "error: stopped by SIGTERM.\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_work_that_finishes_first_is_not_ended() -> None:
    with ended_by_sigterm(), termination() as ending:
        os.kill(os.getpid(), signal.SIGTERM)
        assert ending.is_asked


def test_processes_that_were_started_are_ended_too() -> None:
    script = (
        "import os, signal, subprocess\n"
        "from simipu_core.termination import end_children, ended_by_sigterm\n"
        "with ended_by_sigterm(end_children), subprocess.Popen(['sleep', '600']):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (143, "error: stopped by SIGTERM.\n")
