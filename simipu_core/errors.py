"""The one exception that is meant for people, and how it reaches them."""

import errno
import io
import os
import re
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


_RUN_AGAIN = "run it again"
_LACKS = {
    r"OutOfMemoryError|CUDA (error: )?out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED": (
        "The GPU's memory ran out; set a smaller batch_size or a larger accumulate (`simipu plan` says what fits)"
    ),
    r"Too many open files|items of ancdata": (
        f"Too many files are open; raise the limit (ulimit -n 65536) or set fewer workers, and {_RUN_AGAIN}"
    ),
    r"signal: Bus error|out of shared memory|shared memory (object|\(shm\))|</torch_": (
        "The shared memory of this machine, /dev/shm, is too small; enlarge it (`shm` of cluster.yaml, docker run "
        "--shm-size 2g) or set workers to 0"
    ),
    r"DataLoader worker.*(exited unexpectedly|signal: Killed)": (
        "A loader process was killed, most likely for want of memory or of /dev/shm; give more of them or set fewer "
        f"workers, and {_RUN_AGAIN}: it goes on from its last checkpoint"
    ),
    r"can't start new thread|Resource temporarily unavailable": (
        "No further process or thread can be started; raise their limit (ulimit -u, docker run --pids-limit) or set "
        f"fewer workers, and {_RUN_AGAIN}"
    ),
    r"MemoryError|an't allocate memory|Cannot allocate memory|Insufficient memory|bad_alloc": (
        "Memory ran out; free some, use a larger machine, or set a smaller batch_size or fewer workers, and "
        f"{_RUN_AGAIN}"
    ),
    r"AF_UNIX path too long": (
        "The name of the folder for temporary files is too long for sockets; set TMPDIR to a shorter one, such as /tmp"
    ),
}
"""What libraries say where the machine lacks something, and what that means; the first that fits counts."""

_REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
    errno.EIO,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
)
"""Of permissions, and of disks and network mounts that fail."""


@contextmanager
def machine_errors() -> Iterator[None]:
    """Raise a `SimipuError` where the machine lacks room, memory, files or processes, whoever meets it.

    Of libraries' errors often the text alone tells. An `InterruptionError`, where a process was killed.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        if (lack := _lack(error)) is None:
            raise
        raise lack from error


def _lack(error: Exception) -> SimipuError | None:
    kind = MemoryError if isinstance(error, MemoryError) else type(error)
    text = f"{kind.__name__}: {error}"
    for pattern, sentence in _LACKS.items():
        if re.search(pattern, text):
            return (InterruptionError if "was killed" in sentence else SimipuError)(f"{sentence}.")
    if any(os.strerror(code) in text for code in (errno.ENOSPC, errno.EDQUOT)):
        place = getattr(error, "filename", None) or "The disk of the outputs, of build/ or of TMPDIR"
        return SimipuError(f"{place}: the disk is full; free space and run it again.")
    return None


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with one line on stderr and exit code 1, not with a traceback, on a `SimipuError` or a lack.

    Likewise where a file or folder is refused by its disk, its mount or its permissions. Where a signal stopped it, the
    exit code is 128 + signal, as for Ctrl-C 130. Characters that the terminal's encoding lacks are printed as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with machine_errors():
            yield
    except StoppedError as error:
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(128 + error.by)
    except SimipuError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in _REFUSED or error.filename is None:
            raise
        sys.exit(
            f"error: {redacted(os.fsdecode(error.filename))}: cannot be read or written ({error.strerror}); look at "
            f"its permissions, its disk or its mount, and {_RUN_AGAIN}."
        )
    except KeyboardInterrupt:
        sys.exit(130)
