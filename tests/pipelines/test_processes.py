"""Steps as processes: they end with the run, by signals as a terminal and a scheduler send them."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import processes
from pipelines.processes import run, without_shell

TREE = """
import os, pathlib, signal, subprocess, sys, time

def end(*_):
    print("saved", flush=True)
    sys.exit(1)

signal.signal(signal.SIGTERM, {handler})
left = subprocess.Popen(["sleep", "600"])
print(f"pids {{os.getpid()}} {{left.pid}}", flush=True)
time.sleep(600)
"""
RUNNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
from pipelines import processes
from simipu_core.errors import plain_errors
with plain_errors():
    processes.run([sys.executable, "-c", sys.argv[1]], show=lambda line: print(line, end="", flush=True))
"""
ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda each: str(each)
)
def test_a_signal_ends_the_whole_tree_in_order(sent: signal.Signals, code: int) -> None:
    with start("end") as (runner, pids):
        runner.send_signal(sent)
        rest, errors = runner.communicate(timeout=60)
    assert (runner.returncode, rest, errors) == (code, "saved\n", f"error: stopped by {sent.name}.\n")
    assert gone(pids)


def test_a_second_interrupt_does_not_wait() -> None:
    with start("signal.SIG_IGN") as (runner, pids):
        runner.send_signal(signal.SIGINT)
        assert runner.stderr
        assert runner.stderr.readline() == "error: stopped by SIGINT.\n"
        time.sleep(1.1)  # longer than one press is passed on twice
        runner.send_signal(signal.SIGINT)
        runner.wait(timeout=60)
    assert runner.returncode == 130
    assert gone(pids)


class start:  # noqa: N801 (reads as a function)
    """A process that runs a command, which has started another one."""

    def __init__(self, handler: str) -> None:
        command = [sys.executable, "-c", RUNNER, TREE.format(handler=handler)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self.runner = subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def __enter__(self) -> tuple["subprocess.Popen[str]", list[int]]:
        assert self.runner.stdout
        _, *pids = self.runner.stdout.readline().split()
        return self.runner, [int(pid) for pid in pids]

    def __exit__(self, *_: object) -> None:
        self.runner.kill()
        self.runner.__exit__(None, None, None)


def test_what_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_S", 0.1)
    monkeypatch.setattr(processes, "_REST_S", 0.1)
    pids: list[int] = []

    def show(line: str) -> None:
        pids.extend(int(pid) for pid in line.split()[1:])
        raise KeyError(line)

    with pytest.raises(KeyError):
        run([sys.executable, "-c", TREE.format(handler="signal.SIG_IGN")], show=show)
    assert len(pids) == 2
    assert gone(pids)


def test_output_and_exit_code_are_passed_on(tmp_path: Path) -> None:
    lines: list[str] = []
    command = ["sh", "-c", 'printf "one\\ntw\\351"; pwd >&2; echo "$WHO"; exit 3']
    assert run(command, folder=tmp_path, environment={**os.environ, "WHO": "me"}, show=lines.append) == 3
    assert lines == ["one\n", f"tw\ufffd{tmp_path}\n", "me\n"]


def test_a_step_runs_by_the_python_that_is_given_wherever_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "it's 100% ü #1? python3 $HOME"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    script = 'path=$(mktemp -d)\n_KFP_RUNTIME=true python3 -c "$0" \\\n    "$@"\n'
    code = "import os, sys; print(os.getppid(), os.environ['_KFP_RUNTIME'], *sys.argv[1:])"
    given = ["--executor_input", f'{{"path": "{folder}/python3"}}']
    command = without_shell(["sh", "-ec", script, code, *given], str(folder / "python"))
    lines: list[str] = []
    assert run(command, show=lines.append) == 0
    assert lines == [f"{os.getpid()} true {' '.join(given)}\n"]  # the shell has made way
    assert shlex.quote(str(folder / "python")) in command[2]


def test_it_knows_the_command_that_kfp_makes() -> None:
    from components.ingest.component import ingest

    container = ingest.component_spec.implementation.container
    made = without_shell(container.command, "/of/python")
    assert "_KFP_RUNTIME=true exec /of/python -m kfp.dsl.executor_main" in made[2]
    assert made[3:] == container.command[3:]
