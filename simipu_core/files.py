"""Files and folders that appear whole or not at all, also where the machine crashes, and locks."""

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from simipu_core.errors import SimipuError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Write a folder atomically: `out` appears when the block ends without an error, else nothing stays.

    Args:
        out: folder to make; must not exist, or be empty.

    Yields:
        The temporary folder to write into.

    Raises:
        SimipuError: `out` exists, or the disk is full or not writable.
    """
    check_new_folder(out)
    with disk_errors(out), draft_folder(out) as draft:
        yield draft
        check_new_folder(out)  # another process may have been faster
        if out.exists():
            out.rmdir()
        put_in_place(draft, out)


def write_file(file: Path, data: bytes) -> None:
    """Write a file atomically; one of the same name is replaced. Of several writers at a time, one waits for another.

    Raises:
        OSError: the disk is full or not writable.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.partial")
    lock = lock_file(draft, is_optional=True)
    try:
        draft.write_bytes(data)
        put_in_place(draft, file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def put_in_place(draft: Path, out: Path) -> None:
    """Give a finished file or folder its name, once all of it is on the disk: a crash leaves it whole, or not there.

    Raises:
        OSError: what was written does not fit on the disk, or the name is taken.
    """
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            _sync(path)
    draft.replace(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def lock_file(file: Path, kind: int = fcntl.LOCK_EX, *, is_optional: bool = False) -> int:
    """Lock a file, which is made where it is not there; others may remove it meanwhile.

    Args:
        file: in an existing folder.
        kind: flock's: shared or exclusive, waiting or not.
        is_optional: where the file system has no locks, only open it.

    Returns:
        a descriptor; the lock ends when it is closed, or with the process, however that ends.

    Raises:
        BlockingIOError: another process holds it, and `kind` does not wait.
        OSError: the file cannot be opened, or the file system has no locks.
    """
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, kind)
            if os.path.samestat(os.fstat(lock), file.stat()):  # else it was removed or replaced meanwhile
                return lock
        except FileNotFoundError:
            pass
        except OSError as error:
            if is_optional and error.errno in _NO_LOCKS:
                return lock
            os.close(lock)
            raise
        os.close(lock)


def check_new_folder(out: Path) -> None:
    """Check that a folder can be made: there is none, or an empty one.

    Raises:
        SimipuError: it exists.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SimipuError(f"{out}: already exists; remove it or choose another output folder.")


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, removed when the block ends; those of killed processes are removed first.

    A fork that inherits the open block leaves the folder to the process that opened it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    owner = os.getpid()
    draft, lock = _make_locked(out)
    try:
        yield draft
    finally:
        if os.getpid() == owner:
            shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


@contextmanager
def temporary_folder(name: str, parent: Path | None = None) -> Iterator[Path]:
    """A private folder, removed when the block ends; those of killed processes are removed first.

    Args:
        name: what it is for.
        parent: where it is made; ``TMPDIR`` by default.

    Raises:
        OSError: it cannot be made.
    """
    with draft_folder((parent or Path(tempfile.gettempdir())) / f"simipu-{name}") as folder:
        folder.chmod(0o700)
        yield folder


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Raise a `SimipuError` that names `place` for an `OSError` inside."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise SimipuError(f"{place}: cannot be written ({reason}); free space or choose another place.") from error


def _make_locked(out: Path) -> tuple[Path, int]:
    """Make a draft of `out` and lock it, so that nobody takes it for abandoned; the folder and a descriptor."""
    while True:
        draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
        draft.mkdir()
        with suppress(FileNotFoundError):  # another process was quicker than the lock, and has removed it
            lock = os.open(draft, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: it stays behind if this process is killed
                fcntl.flock(lock, fcntl.LOCK_EX)
            if draft.exists():
                return draft, lock
            os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Remove drafts of `out` whose process is gone, and with it its lock."""
    for draft in out.parent.glob(f".{escape(out.name)}.????????.partial"):
        with suppress(OSError):
            lock = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(lock)
