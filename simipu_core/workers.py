"""Processes that work for this one, within bounds of memory and processor time, so that no input costs more.

Readers of foreign formats ask for what a file claims, and some of them end their process rather than fail. A worker
that meets its bound, or that its reader takes down, is lost alone; what it was at work on is known.
"""

import math
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from traceback import format_exc
from typing import Any, NamedTuple, Self, TypeVar

from simipu_core.errors import SimipuError, machine_errors

MEMORY, SECONDS = "SIMIPU_FRAME_MEMORY", "SIMIPU_FRAME_SECONDS"
"""Settings of the environment: MiB, and seconds of processor time, that reading one frame or message may take."""
_DEFAULTS = {MEMORY: 1024, SECONDS: 60}

_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 255)
"""Exit codes of a process that was killed; 255: with its fork server."""
_SLOW = ("numba", "scipy.spatial")
"""Libraries that load slowly, and only where they are used."""

ResultT = TypeVar("ResultT")


class _Signal(Enum):
    """What a worker answers besides values."""

    DONE = "done"
    MEMORY = "memory"


class Bounds(NamedTuple):
    """What work on one item may take."""

    memory: int
    """Bytes beyond what the worker holds before it begins."""
    seconds: int
    """Of processor time."""

    @classmethod
    def of_frame(cls) -> Self:
        """Those of a frame or message, as the environment sets them.

        Raises:
            SimipuError: it sets no whole positive number.
        """
        return cls(_setting(MEMORY) << 20, _setting(SECONDS))


class LostError(Exception):
    """A worker is lost, and with it what it was at work on."""

    def __init__(self, reason: str, is_bound: bool, may_differ: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        """To be put after the name of what was read."""
        self.is_bound = is_bound
        """Its bounds or its reader ended it; else something from outside."""
        self.may_differ = may_differ
        """A new worker, which holds nothing yet, might succeed."""


class Worker:
    """A process that runs generator functions, one after another, and hands over what they yield.

    Args:
        bounds: for each value; None: none.
    """

    def __init__(self, bounds: Bounds | None) -> None:
        context = multiprocessing.get_context("forkserver")
        loaded = [name for name in sys.modules if name.startswith((f"{__package__}.", *_SLOW))]
        context.set_forkserver_preload(["__main__", *loaded])  # by the fork server, once, and not by every worker
        self._bounds = bounds
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, bounds, dict(os.environ))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        # Arrow's own pool takes a GiB at a time, which would count
        with starting(), _variable("ARROW_DEFAULT_MEMORY_POOL", "system"):
            self._process.start()
        theirs.close()
        self.is_new = True
        """It has yielded nothing yet."""

    def run(self, function: Callable[..., Iterable[ResultT]], *arguments: Any) -> Iterator[ResultT]:
        """What a generator function yields, as it does.

        Args:
            function: picklable; yields picklable values.
            arguments: picklable.

        Raises:
            LostError: the worker met its bounds, or was ended; it is of no use any more.
        """
        try:
            self._pipe.send((function, arguments))
            while (answer := self._pipe.recv()) is not _Signal.DONE:
                if answer is _Signal.MEMORY:
                    raise LostError(self._out_of_memory(), is_bound=True, may_differ=True)
                value, error = answer
                if error is not None:
                    raise error
                self.is_new = False
                yield value
        except (EOFError, ConnectionError):
            self._process.join()
            raise self._loss(self._process.exitcode or 0) from None

    def kill(self) -> None:
        """End the process, whatever it is at work on."""
        self._process.kill()

    def join(self) -> None:
        """Wait for its end."""
        self._process.join()

    def _out_of_memory(self) -> str:
        return f"takes more than {(self._bounds.memory if self._bounds else 0) >> 20} MiB of memory to read ({MEMORY})"

    def _loss(self, code: int) -> LostError:
        if self._bounds is None or code in _FROM_OUTSIDE:
            return LostError("was being read when the process was killed", is_bound=False, may_differ=False)
        if code == -signal.SIGXCPU:
            seconds = f"takes more than {self._bounds.seconds} s of processor time to read ({SECONDS})"
            return LostError(seconds, is_bound=True, may_differ=False)
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return LostError(f"{self._out_of_memory()}, or breaks its reader ({name})", is_bound=True, may_differ=True)


@contextmanager
def starting() -> Iterator[None]:
    """Say what to do where a process cannot be started.

    Raises:
        SimipuError: it cannot.
    """
    try:
        with machine_errors():
            yield
    except (OSError, EOFError) as error:  # EOFError: the fork server could not
        reason = str(error) if isinstance(error, OSError) else "the fork server ended"
        raise SimipuError(
            f"No process can be started here ({reason}); allow `fork`, and raise the limit of processes (ulimit -u, "
            "docker run --pids-limit)."
        ) from error


def _setting(name: str) -> int:
    text = os.environ.get(name, "").strip() or str(_DEFAULTS[name])
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 30):
        raise SimipuError(f"{name}: {text} is no whole positive number; write one, or unset it.")
    return int(text)


def _serve(pipe: Connection, bounds: Bounds | None, environment: dict[str, str]) -> None:
    """The worker's life: run what comes through the pipe until it is closed."""
    _begin(environment)
    if bounds:
        _bound_memory(bounds.memory)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            _bound_time(bounds)
            for value in function(*arguments):
                pipe.send((value, None))
                _bound_time(bounds)
            pipe.send(_Signal.DONE)
        except MemoryError:
            pipe.send(_Signal.MEMORY)
        except BrokenPipeError:
            return
        except Exception as error:
            error.add_note(f"In a worker process:\n{format_exc()}")
            pipe.send((None, error))


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, for the fork server, which takes over what is set when it begins."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _begin(environment: dict[str, str]) -> None:
    os.environ.clear()  # the fork server's is as old as itself, credentials included
    os.environ.update(environment)
    for sent_by_the_terminal in (signal.SIGINT, signal.SIGHUP):  # to all; the one that gives work ends this one
        signal.signal(sent_by_the_terminal, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(0)
    if parent := multiprocessing.parent_process():
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this process when the one that gives it work is no more, as after SIGKILL; it would wait for ever."""
    parent.join()
    os._exit(1)


def _bound_memory(room: int) -> None:
    """Let this process take so many bytes more than it holds.

    What counts is memory of its own that it may write to, not address space: libraries reserve much of that.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    _lower(resource.RLIMIT_DATA, pages * resource.getpagesize() + room)
    _lower(resource.RLIMIT_CORE, 0)


def _bound_time(bounds: Bounds | None) -> None:
    """Let this process work for so many seconds from now; then the kernel ends it."""
    if bounds:
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time()) + bounds.seconds)


def _lower(limit: int, value: int) -> None:
    most = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))
