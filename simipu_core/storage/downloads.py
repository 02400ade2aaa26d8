"""Files from buckets, in parallel parts, checked."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock

from simipu_core.files import put_in_place
from simipu_core.progress import progress
from simipu_core.storage import s3
from simipu_core.storage.s3 import StorageError
from simipu_core.storage.s3_path import S3Path

_PART = 8 << 20
_PIECE = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """An object to fetch."""

    source: S3Path
    algorithm: str
    """Of its digest: ``md5``, ``md5-dos2unix`` or ``sha256``."""
    digest: str
    """Of its content, in hexadecimal."""


def digests(file: BufferedReader | BytesIO, algorithm: str) -> set[str]:
    """Digests that a content may go by: for ``md5-dos2unix`` also that of a text with the line ends of Unix."""
    if algorithm == "sha256":
        return {hashlib.file_digest(file, "sha256").hexdigest()}
    plain, unix, carried = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False), b""
    while piece := file.read(_PIECE):
        plain.update(piece)
        if algorithm == "md5-dos2unix":
            piece, carried = carried + piece, b""
            if piece.endswith(b"\r"):
                piece, carried = piece[:-1], b"\r"
            unix.update(piece.replace(b"\r\n", b"\n"))
    unix.update(carried)
    return {plain.hexdigest(), unix.hexdigest()} if algorithm == "md5-dos2unix" else {plain.hexdigest()}


def is_safe(name: str) -> bool:
    """Whether a file name from a listing or manifest stays inside the folder it belongs to."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts and "\0" not in name


def fetch_files(wanted: Mapping[str, Wanted], folder: Path) -> None:
    """Download objects, large ones in parallel parts, each to its name below `folder` once it is whole and checked.

    Files that are there already came so in an earlier try, and are kept.

    Args:
        wanted: by safe file name.
        folder: existing folder.

    Raises:
        FileNotFoundError: an object is not there.
        StorageError: S3 fails, or a content does not match its digest.
    """
    missing = {folder / name: source for name, source in wanted.items() if not (folder / name).is_file()}
    with progress("fetch", len(wanted), len(wanted) - len(missing)) as advance, ThreadPoolExecutor(s3.THREADS) as pool:
        begun = [pool.submit(_begin, file, source) for file, source in missing.items()]
        rest: list[Future[bool]] = []
        for download in s3.results(pool, begun):
            if download.parts:
                rest += [pool.submit(download.fetch, start) for start in list(download.parts)]
            else:
                advance()
        for is_whole in s3.results(pool, rest):
            if is_whole:
                advance()


@dataclass
class _Download:
    """A file of which the first part is there."""

    file: Path
    wanted: Wanted
    size: int
    etag: str
    parts: list[int] = field(default_factory=list)
    """Where parts that are still to come begin; those under way count."""
    lock: Lock = field(default_factory=Lock)

    def fetch(self, start: int) -> bool:
        """Fetch a part; True when it was the last one and the file is whole."""
        source = self.wanted.source
        data = s3.read(source.bucket, source.key, (start, min(start + _PART, self.size)), self.etag)
        with _draft(self.file).open("r+b") as file:
            file.seek(start)
            file.write(data)
        with self.lock:
            self.parts.remove(start)
            is_last = not self.parts
        if is_last:
            self.finish()
        return is_last

    def finish(self) -> None:
        draft = _draft(self.file)
        with draft.open("rb") as file:
            is_whole = self.wanted.digest in digests(file, self.wanted.algorithm)
        if not is_whole:
            draft.unlink()
            raise StorageError(
                f"{self.wanted.source}: its content does not match its {self.wanted.algorithm}; write it again."
            )
        put_in_place(draft, self.file)


def _begin(file: Path, wanted: Wanted) -> _Download:
    source = wanted.source
    data, size, etag = s3.read_part(source.bucket, source.key, (0, _PART))
    file.parent.mkdir(parents=True, exist_ok=True)
    _draft(file).write_bytes(data)
    download = _Download(file, wanted, size, etag, list(range(_PART, size, _PART)))
    if not download.parts:
        download.finish()
    return download


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.partial")
