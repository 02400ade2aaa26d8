"""Run commands, the steps among them, as processes of this machine that end with all that they have started."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from simipu_core.termination import ended_by_signal, termination

PATIENCE_S = 120
"""What a step gets between the request to end and its end by force, for the training step under way and its
checkpoint."""
_REST_S = 5.0  # for what is left when it has ended
_POLL_S = 0.05
_START = "_KFP_RUNTIME=true python3 "


def run(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    show: Callable[[str], object] | None = None,
) -> int:
    """Run a command in a process group of its own, which a terminal's Ctrl-C does not reach.

    Where a signal or an error ends this function, it ends the command and all that it has started: by SIGTERM, so that
    a step leaves things in order, and what is left after two minutes, or when Ctrl-C is pressed again, by SIGKILL.

    Args:
        command: program and arguments.
        folder: where it runs; None: here.
        environment: all of its variables; None: those of this process.
        show: is called with each line of its output; None: it goes where this process's goes.

    Returns:
        its exit code, that of the signal that ended it negative.
    """
    output: dict[str, Any] = {}
    if show is not None:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with ended_by_signal(), ExitStack() as ending:
        with termination() as asked:  # not before it is known what is to be ended
            process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **output)
            ending.enter_context(_ended(process, show))
        if asked.signal is not None:
            signal.raise_signal(asked.signal)
        for line in process.stdout or ():
            show and show(line)
        return process.wait()


@contextmanager
def steps_as_processes() -> Iterator[None]:
    """Have kfp.local run each step by :func:`run`, in whatever folder Python lies.

    Its own runner puts the path of Python into the shell's words unquoted, in place of each `python3` that it finds,
    also where a folder is called so, and lets a step go on that nobody waits for any more.
    """
    from kfp.local import subprocess_task_handler as handler

    original = handler.replace_python_executable, handler.run_local_subprocess

    def run_step(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        variables = {**os.environ, **(env_vars or {})}
        return run(full_command, environment=variables, show=partial(print, end=""))

    handler.replace_python_executable = without_shell
    handler.run_local_subprocess = run_step
    try:
        yield
    finally:
        handler.replace_python_executable, handler.run_local_subprocess = original


def without_shell(command: Sequence[str], python: str = "python3") -> list[str]:
    """A step's command, whose shell makes way for Python, so that signals reach the step.

    Args:
        command: what kfp makes of a component.
        python: the interpreter.
    """
    shell, options, script, *given = command
    return [shell, options, script.replace(_START, f"_KFP_RUNTIME=true exec {shlex.quote(python)} ", 1), *given]


@contextmanager
def _ended(process: "subprocess.Popen[Any]", show: Callable[[str], object] | None) -> Iterator[None]:
    """When the block breaks off, end the process and its group."""
    drain = Thread(target=_drain, args=(process, show), daemon=True)
    try:
        yield
    except BaseException:
        with suppress(KeyboardInterrupt):
            process.terminate()
            drain.start()  # a full pipe would hold it up, and its last words are of interest
            _wait(lambda: process.poll() is not None, PATIENCE_S)
            _signal_group(process.pid, signal.SIGTERM)
            _wait(lambda: not _signal_group(process.pid, 0), _REST_S)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        if drain.ident:
            drain.join(_REST_S)
        if process.stdout and not drain.is_alive():
            process.stdout.close()


def _drain(process: "subprocess.Popen[Any]", show: Callable[[str], object] | None) -> None:
    with suppress(ValueError, OSError):
        for line in process.stdout or ():
            with suppress(ValueError, OSError):
                show and show(line)


def _wait(is_over: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_over() and time.monotonic() < until:
        time.sleep(_POLL_S)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal; whether anybody is there to get it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
