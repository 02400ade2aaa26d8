"""Paths into buckets, for code that reads files and folders through `pathlib`."""

import errno
import fnmatch
import io
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path, PosixPath
from typing import IO, Any, Self

from simipu_core.addresses import s3_parts
from simipu_core.storage import s3
from simipu_core.storage.s3 import Entry, StorageError

_Listing = dict[str, Entry | None]
_listings: dict[tuple[str, str], _Listing] = {}
"""Folders that were listed, by bucket and prefix: entries by name, None for folders."""
_walked: set[tuple[str, str]] = set()
"""Folders below which all folders were listed."""

_BUFFER = 1 << 20


def forget_listings() -> None:
    """List folders anew when they are next looked at."""
    _listings.clear()
    _walked.clear()


class S3Path(PosixPath):
    """A read-only path ``s3://bucket/key``; a key's part before its last slash is its folder.

    Folders are listed once in a process (see :func:`forget_listings`); whether a file is there, and its size, is read
    off the listing of its folder, so reading a file that is known takes one request. What needs a file of the local
    disk refuses it. Where S3 does not answer, every method raises a `StorageError`, which is no `OSError`: it must not
    pass for a missing file.
    """

    __slots__ = ()

    @classmethod
    def at(cls, address: str) -> Self:
        """The path of an address.

        Raises:
            SimipuError: it is none.
        """
        bucket, key = s3_parts(address)
        return cls(f"/{bucket}/{key}")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Key of the object, without a slash at its end."""
        return "/".join(self.parts[2:])

    @property
    def prefix(self) -> str:
        """What the keys of all objects below begin with."""
        return f"{self.key}/" if self.key else ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"s3:/{text}" if text.startswith("/") else text

    def __fspath__(self) -> str:
        raise StorageError(f"{self}: is needed on a local disk here; give a local path.")

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        entry = self._entry()
        mode, size, time = (stat.S_IFDIR, 0, 0) if entry is None else (stat.S_IFREG, entry.size, entry.mtime_ns)
        seconds = time // 1_000_000_000
        return os.stat_result((mode | 0o444, 0, 0, 1, 0, 0, size, seconds, seconds, seconds), {"st_mtime_ns": time})

    @property
    def etag(self) -> str:
        """Tag of an object's content; empty for a folder."""
        entry = self._entry()
        return entry.etag if entry else ""

    def lstat(self) -> os.stat_result:
        return self.stat()

    def is_dir(self) -> bool:
        return bool(self._listing())

    def iterdir(self) -> Generator[Self, None, None]:
        names = list(self._listing())
        if not names:
            raise self._missing()
        return (self / name for name in names)

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        return self._glob([part for part in pattern.split("/") if part])

    def rglob(self, pattern: str) -> Generator[Self, None, None]:
        return self.glob(f"**/{pattern}")

    def walk(self) -> Iterator[tuple[Self, Entry]]:
        """All objects below, with their paths."""
        start = len(self.prefix)
        for entry in s3.entries(self.bucket, self.prefix):
            name = entry.key[start:]
            if _is_sound(name):
                yield self / name, entry

    def read_bytes(self) -> bytes:
        return s3.read(self.bucket, self.key)

    def read_beginning(self, size: int) -> bytes:
        """At most so many bytes, in one request."""
        return s3.read(self.bucket, self.key, (0, size))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open for reading; binary files are read piece by piece, as they are asked for."""
        if set(mode) - set("rbt"):
            raise StorageError(f"{self}: is open for reading only; write to a local folder.")
        if "b" not in mode:
            return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors, newline)
        entry = self._entry()
        if entry is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
        return io.BufferedReader(_Ranges(self.bucket, entry), buffering if buffering > 1 else _BUFFER)

    def _glob(self, parts: list[str]) -> Generator[Self, None, None]:
        if not parts:
            yield self
            return
        if parts[0] == "**":
            _list_all_below(self)
            yield from self._glob(parts[1:])
            for name in _folders(self._listing()):
                yield from (self / name)._glob(parts)
            return
        listing = self._listing()
        for name in fnmatch.filter(listing, parts[0]):
            if len(parts) == 1 or listing[name] is None:
                yield from (self / name)._glob(parts[1:])

    def _entry(self) -> Entry | None:
        """What is known of this object; None for a folder."""
        if not self.key:
            if not self._listing():
                raise self._missing()
            return None
        siblings = self.parent._listing()
        if self.name not in siblings:
            raise self._missing()
        return siblings[self.name]

    def _listing(self) -> _Listing:
        if len(self.parts) < 2:
            raise StorageError(f"{self}: names no bucket; write s3://bucket/prefix.")
        place = (self.bucket, self.prefix)
        if place not in _listings:
            above = _listings.get((self.bucket, self.parent.prefix)) if self.key else None
            _listings[place] = {} if above is not None and above.get(self.name, 0) is not None else self._listed()
        return _listings[place]

    def _listed(self) -> _Listing:
        start = len(self.prefix)
        objects, folders = s3.folder_entries(self.bucket, self.prefix)
        listing: _Listing = {entry.key[start:]: entry for entry in objects}
        listing |= dict.fromkeys(folder[start:-1] for folder in folders)
        return {name: listing[name] for name in sorted(listing) if _is_sound(name)}

    def _missing(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))


class _Ranges(io.RawIOBase):
    """An object as a file that can be sought in; each read is a request of that range."""

    def __init__(self, bucket: str, entry: Entry) -> None:
        self._bucket, self._entry, self._position = bucket, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._entry.size)
        if stop <= self._position:
            return 0
        data = s3.read(self._bucket, self._entry.key, (self._position, stop), self._entry.etag)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def seekable(file: Path) -> Path | IO[bytes]:
    """A file for readers of Parquet, HDF5 and the like: itself on a local disk, else an open file of ranges."""
    return file.open("rb") if isinstance(file, S3Path) else file


def _list_all_below(folder: S3Path) -> None:
    """Know every folder below from one flat listing, a thousand objects a request."""
    if (folder.bucket, folder.prefix) in _walked:
        return
    found: dict[tuple[str, str], _Listing] = {(folder.bucket, folder.prefix): {}}
    for path, entry in folder.walk():
        found.setdefault((path.bucket, path.parent.prefix), {})[path.name] = entry
        while (path := path.parent) != folder and path.name not in found.setdefault(
            (path.bucket, path.parent.prefix), {}
        ):
            found[path.bucket, path.parent.prefix][path.name] = None
    for (bucket, prefix), listing in found.items():
        _listings[bucket, prefix] = dict(sorted(listing.items()))
        _walked.add((bucket, prefix))


def _folders(listing: _Listing) -> list[str]:
    return [name for name, entry in listing.items() if entry is None]


def _is_sound(name: str) -> bool:
    """Whether a key's rest names a file here: markers of folders and names like ``a//b`` or ``..`` do not."""
    return all(part not in ("", ".", "..") for part in name.split("/"))
