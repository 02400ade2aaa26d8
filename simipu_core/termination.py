"""Signals that ask a process to end, as a request that work may finish or be ended in order, not as its sudden end.

SIGINT is Ctrl-C, SIGTERM what schedulers send, SIGHUP the end of a terminal. One that the process ignores, as under
nohup, stays ignored. Ctrl-C a second time does not wait for that order.
"""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_PRESS_S = 1.0  # in which some shells and tools pass one Ctrl-C on twice


class Termination:
    """Whether the process was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at = 0.0

    @property
    def is_asked(self) -> bool:
        """Whether it was."""
        return self.signal is not None

    @property
    def name(self) -> str:
        """Of the signal; where another process was told, of what such a one is told by."""
        return (self.signal or signal.SIGTERM).name

    def note(self, number: int) -> bool:
        """Take note of a signal.

        Returns:
            whether it is the first one.

        Raises:
            KeyboardInterrupt: it is a Ctrl-C after an earlier request.
        """
        if number == signal.SIGHUP:
            _let_go_of_the_terminal()
        if self.signal is None:
            self.signal, self._at = signal.Signals(number), time.monotonic()
            return True
        if number == signal.SIGINT and time.monotonic() - self._at > _ONE_PRESS_S:
            raise KeyboardInterrupt
        return False


@contextmanager
def termination(at_once: Callable[[], object] | None = None) -> Iterator[Termination]:
    """Note a request to end instead of dying of it, for as long as the block runs; only in a process's main thread.

    Args:
        at_once: called by the signal's handler, for what must not wait until the block looks.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed again.
    """
    state = Termination()

    def note(number: int, _frame: FrameType | None) -> None:
        state.note(number)
        if at_once is not None:
            at_once()

    with _handled_by(note):
        yield state


class _End:
    """A handler that ends the block by `SystemExit`."""

    def __init__(self) -> None:
        self._state = Termination()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._state.note(number):
            with suppress(OSError):
                os.write(2, f"error: stopped by {self._state.name}.\n".encode())
            raise SystemExit(128 + number)


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """A request to end ends the block by `SystemExit` with code 128 + signal, so that all it began is left in order.

    Only in a process's main thread. Within :func:`termination` it does not.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed again meanwhile.
    """
    if any(isinstance(signal.getsignal(number), _End) for number in REQUESTS):  # an outer block sees to it
        yield
        return
    with _handled_by(_End()):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in REQUESTS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _let_go_of_the_terminal() -> None:
    """Write to nowhere what would go to a terminal that may be gone, since each write there would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)
