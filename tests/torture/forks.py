"""The command `simipu` in forks of this process, which has loaded all that it needs, to be killed at any moment.

This process must run no threads when it forks.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import BaseContext, ForkServerContext
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.truncate", "os.link", "sqlite3.connect"}
"""Audit events of calls that change files; `open` counts where it is for writing."""
_WRITING = os.O_WRONLY | os.O_RDWR
_IN_WORKERS = ("simipu_core.data.catalogue", "simipu_core.data.pairing", "simipu_core.data.bags")
PATIENCE = 300.0
"""Seconds after which a command hangs."""


def load() -> None:
    """Import what stages import when they run."""
    import numba  # noqa: F401

    from simipu_core import synthetic  # noqa: F401
    from simipu_core.data import bags  # noqa: F401
    from simipu_core.stages import check, finetune, ingest, pair, pretrain, release, table  # noqa: F401
    from simipu_core.tracking import overview, pipeline_run  # noqa: F401


class Child:
    """A process in a session of its own.

    Args:
        work: what it runs; its result is the exit code.
        folder: where it works; its output goes to a file there.
        variables: its environment.
        blow: number of the call that changes files at which it, or all its session, is killed; 0: none.
    """

    def __init__(self, work: Callable[[], int], folder: Path, variables: Mapping[str, str], blow: int = 0) -> None:
        self.log = folder / "said.log"
        self.changes = folder / "changes"
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, folder, self.log, self.changes, variables, blow)
        self._descriptor = os.pidfd_open(self.pid)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came in time."""
        if self.code is None and select.select([self._descriptor], [], [], seconds)[0]:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._descriptor)
        return self.code is not None

    def kill(self, *, whole: bool) -> None:
        """SIGKILL for it, or for all of its session."""
        if whole:
            kill_session(self.pid)
        else:
            _kill(self.pid)
        self.wait(PATIENCE)

    def is_left(self, seconds: float) -> bool:
        """Whether processes of it live on for so long after it; they are killed then."""
        until = time.monotonic() + seconds
        while processes_of(self.pid):
            if time.monotonic() > until:
                kill_session(self.pid)
                return True
            time.sleep(0.02)
        return False

    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-1500:] if self.log.is_file() else ""


def simipu(*arguments: str) -> Callable[[], int]:
    """The command `simipu`, as a console script runs it."""

    def work() -> int:
        from simipu_core.cli import main

        sys.argv = ["simipu", *arguments]
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return end.code or 0
        return 0

    return work


def processes_of(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def kill_session(session: int) -> None:
    """Kill all of a session, also what its processes start meanwhile."""
    while left := processes_of(session):
        for pid in left:
            _kill(pid)
        time.sleep(0.01)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _live(
    work: Callable[[], int], folder: Path, log: Path, changes: Path, variables: Mapping[str, str], blow: int
) -> None:
    """The life of a fork: it never returns."""
    code = 70
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        _preload_little()
        _count(changes, folder, blow)
        code = work()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _preload_little() -> None:
    """Have fork servers load what their workers run, and not all that this process has loaded."""
    original = ForkServerContext.set_forkserver_preload

    def set_preload(self: BaseContext, names: list[str]) -> None:
        original(self, [name for name in names if name in _IN_WORKERS])

    ForkServerContext.set_forkserver_preload = set_preload  # type: ignore[assignment, method-assign]


def _count(changes: Path, folder: Path, blow: int) -> None:
    """Write down how many calls have changed files below the folder, and die at one of them."""
    number = 0
    counter = os.open(changes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    inside = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        if event == "open":
            name, _, flags = arguments
            if not (isinstance(name, str) and isinstance(flags, int) and flags & _WRITING):
                return
        elif event in _CHANGES:
            name = os.fspath(arguments[0]) if arguments and not isinstance(arguments[0], int) else ""
        else:
            return
        if isinstance(name, bytes) or not os.path.abspath(name).startswith(inside):  # noqa: PTH100 (opens nothing)
            return
        number += 1
        os.pwrite(counter, str(number).encode(), 0)
        if number == blow:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
