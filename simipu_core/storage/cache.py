"""A bounded folder of what was downloaded, shared by all processes of a machine.

An entry is a folder whose name tells its content. Processes that use it hold a shared lock until they end, however
they end; what nobody holds is removed, least recently used first, when room is needed.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from simipu_core import project
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, lock_file, put_in_place

_DEFAULT_GB = 200.0
_held: dict[Path, int] = {}
"""Locks of entries in use, open until the process ends."""


def cached(name: str, fill: Callable[[Path], None], size: int = 0) -> Path:
    """The entry of that name, made where it is not there; it stays until this process ends.

    Args:
        name: names the content: another content must have another name.
        fill: writes the content into a folder, which may hold what an earlier try completed.
        size: bytes it takes, where that is known.

    Raises:
        SimipuError: more than the cache may hold, or the disk is full or not writable.
    """
    folder = project.cache() / name
    if folder not in _held or not folder.is_dir():
        folder, _held[folder] = _lock_filled(name, fill, size)
    return folder


@contextmanager
def borrowed(name: str, fill: Callable[[Path], None], size: int = 0) -> Iterator[Path]:
    """The same as :func:`cached`, but the entry may be removed again when the block ends."""
    folder, lock = _lock_filled(name, fill, size)
    try:
        yield folder
    finally:
        os.close(lock)


def _lock_filled(name: str, fill: Callable[[Path], None], size: int) -> tuple[Path, int]:
    """An entry, made where it is not there, and the shared lock that keeps it."""
    root = project.cache()
    folder = root / name
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        while True:
            lock = lock_file(_lock_file(folder), fcntl.LOCK_SH)
            if folder.is_dir():
                os.utime(lock)
                return folder, lock
            os.close(lock)
            with _locked(folder):
                if not folder.is_dir():
                    _make(folder, fill, size)


def _make(folder: Path, fill: Callable[[Path], None], size: int) -> None:
    limit = _limit()
    if size > limit:
        raise SimipuError(
            f"{folder}: {size / 1e9:.1f} GB are needed, more than the {limit / 1e9:g} GB that the cache may hold; set "
            "SIMIPU_CACHE_GB."
        )
    _make_room(folder, limit - size)
    draft = _draft(folder)
    draft.mkdir(exist_ok=True)
    fill(draft)
    _make_room(folder, limit - _size(draft))
    put_in_place(draft, folder)


def _make_room(besides: Path, limit: int) -> None:
    """Remove the entries used longest ago that nobody holds, until the others take no more than `limit` bytes."""
    root = besides.parent
    locks = [path for path in root.glob(".*.lock") if path != _lock_file(besides)]
    names = [path.name[1:-5] for path in sorted(locks, key=_last_used)]
    sizes = {name: _size(root / name) + _size(_draft(root / name)) for name in names}
    total = sum(sizes.values())
    for name in names:
        if total <= limit:
            return
        try:
            lock = lock_file(_lock_file(root / name), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.rmtree(_draft(root / name), ignore_errors=True)
        _lock_file(root / name).unlink(missing_ok=True)
        os.close(lock)
        total -= sizes[name]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = lock_file(_lock_file(folder))
    try:
        yield
    finally:
        os.close(lock)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _draft(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _last_used(lock: Path) -> float:
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:  # removed meanwhile
        return 0.0


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:  # removed meanwhile
        return 0


def _limit() -> int:
    text = os.environ.get("SIMIPU_CACHE_GB", "")
    try:
        return round(float(text or _DEFAULT_GB) * 1e9)
    except ValueError:
        raise SimipuError(f"SIMIPU_CACHE_GB: {text} is no number; write gigabytes.") from None
