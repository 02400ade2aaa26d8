"""SIGTERM as a request that work may finish or be ended in order, and not as its sudden end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


class Termination:
    """Whether the process was asked to end."""

    is_asked = False


@contextmanager
def termination(at_once: Callable[[], object] | None = None) -> Iterator[Termination]:
    """Note SIGTERM instead of dying of it, for as long as the block runs; only in a process's main thread.

    Args:
        at_once: called by the signal's handler, for what must not wait until the block looks.
    """
    state = Termination()

    def note(_signal: int, _frame: FrameType | None) -> None:
        state.is_asked = True
        if at_once is not None:
            at_once()

    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield state
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ended_by_sigterm(first: Callable[[], object] | None = None) -> Iterator[None]:
    """SIGTERM ends the block by `SystemExit` with code 143, so that all that it began is left in order.

    Only in a process's main thread. Within :func:`termination` it does not.

    Args:
        first: called by the signal's handler before.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, b"error: stopped by SIGTERM.\n")
        if first is not None:
            first()
        raise SystemExit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_children() -> None:
    """Send SIGTERM to the processes that the main thread has started."""
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGTERM)
