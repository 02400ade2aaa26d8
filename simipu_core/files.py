"""Files and folders that appear whole or not at all."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from simipu_core.errors import SimipuError


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
        if out.exists():
            out.rmdir()
        draft.replace(out)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Write a file atomically: it appears, or takes another's place, when the block ends without an error.

    Yields:
        The temporary file to write, with the same suffix.

    Raises:
        SimipuError: a folder is in its place, or the disk is full or not writable.
    """
    draft = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def check_new_folder(out: Path) -> None:
    """Check that a folder can be made: there is none, or an empty one.

    Raises:
        SimipuError: it exists.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SimipuError(f"{out}: already exists; remove it or choose another output folder.")


@contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, removed when the block ends; those of killed processes are removed first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    unlocked = draft.with_suffix(".new")
    unlocked.mkdir()
    lock = os.open(unlocked, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: it stays behind if this process is killed
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.replace(draft)
        if not draft.exists():
            draft = unlocked
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Raise a `SimipuError` that names `place` for an `OSError` inside."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise SimipuError(f"{place}: cannot be written ({reason}); free space or choose another place.") from error


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
