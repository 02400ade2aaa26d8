"""The one exception that is meant for people, and how it reaches them."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from simipu_core.redaction import redacted


class SimipuError(Exception):
    """A problem the user can mend.

    The message is one plain sentence that names the file or setting and the mend. The command line and the
    pipeline components print it without a traceback and exit with code 1. Secrets in it are masked
    (:mod:`simipu_core.redaction`), since messages also go into tags, reports and logs.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class InterruptionError(SimipuError):
    """Work that something outside of it ended: a signal, a process or machine that was lost.

    Another attempt may go on from the last checkpoint.
    """


class StoppedError(InterruptionError):
    """Work that ended in order, because a signal asked for it.

    Args:
        message: as for every `SimipuError`.
        by: the signal.
    """

    def __init__(self, message: str, by: signal.Signals | None = None) -> None:
        super().__init__(message)
        self.by = by or signal.SIGTERM


@contextmanager
def full_disk_errors() -> Iterator[None]:
    """Raise a `SimipuError` where a disk is full, whichever it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = error.filename or "The disk of the outputs, of build/ or of TMPDIR"
        raise SimipuError(f"{place}: the disk is full; free space and run it again.") from error


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with one line on stderr and exit code 1, not with a traceback, on a `SimipuError` or a full disk.

    Where a signal stopped it, the exit code is 128 + signal, as for Ctrl-C 130.
    """
    try:
        with full_disk_errors():
            yield
    except StoppedError as error:
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(128 + error.by)
    except SimipuError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
