"""SIGTERM as a request that work may finish, and not as its end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
