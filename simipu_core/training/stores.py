"""Where checkpoints lie: a local folder or a prefix in S3. A store keeps named pieces of bytes."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Protocol

from simipu_core.addresses import S3
from simipu_core.errors import InterruptionError, SimipuError
from simipu_core.files import lock_file, write_file
from simipu_core.storage import S3Path, s3
from simipu_core.storage.probe import probe


class Store(Protocol):
    """A flat set of named pieces."""

    def names(self) -> set[str]:
        """Names of all whole pieces."""

    def read(self, name: str) -> bytes | None:
        """A piece; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a piece, whole or not at all; one of the same name is replaced."""

    def keep(self, names: set[str]) -> None:
        """Remove all other pieces, and what killed writes left."""

    def held(self) -> AbstractContextManager[None]:
        """Keep other users out while the block runs, where that can be done."""


def open_store(place: str | Path) -> Store:
    """The store of a folder, or of ``s3://bucket/prefix``.

    Raises:
        SimipuError: an S3 address without a bucket.
    """
    return S3Store(place) if isinstance(place, str) and place.startswith(S3) else LocalStore(Path(place))


class LocalStore:
    """A folder; pieces appear by renaming.

    Every method raises a `SimipuError` where the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> set[str]:
        with self._errors("read"):
            try:
                return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
            except FileNotFoundError:
                return set()

    def read(self, name: str) -> bytes | None:
        with self._errors("read"):
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._errors("written"):
            write_file(self.folder / name, data)

    def keep(self, names: set[str]) -> None:
        with self._errors("written"):
            if not names:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            for path in self.folder.iterdir():
                if path.name not in names:
                    path.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock a file beside the folder, which names the holder; the lock ends with the process, however that ends.

        Raises:
            InterruptionError: another process holds it.
        """
        file = self.folder.with_name(f".{self.folder.name}.lock")
        with self._errors("written"):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = lock_file(file, fcntl.LOCK_EX | fcntl.LOCK_NB, is_optional=True)
            except BlockingIOError:
                raise InterruptionError(
                    f"{self.folder}: {file.read_text(encoding='utf-8') or 'another process'} trains with the same "
                    "data and settings; wait for it, or set SIMIPU_CHECKPOINTS to another place."
                ) from None
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            os.close(lock)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SimipuError(
                f"{self.folder}: checkpoints cannot be {done} ({error.strerror}); free space, make it accessible or "
                "set SIMIPU_CHECKPOINTS to another place."
            ) from None


class S3Store:
    """A prefix of a bucket, with the endpoint and credentials of the usual AWS settings.

    Every method raises a `StorageError` where S3 does not answer or refuses.
    """

    def __init__(self, place: str) -> None:
        self.place = S3Path.at(place)
        self.bucket, self.prefix = self.place.bucket, self.place.prefix
        self.client = s3.client()
        self._begun = datetime.now(UTC)

    def names(self) -> set[str]:
        return {entry.key.removeprefix(self.prefix) for entry in s3.entries(self.bucket, self.prefix)}

    def read(self, name: str) -> bytes | None:
        try:
            return (self.place / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        with s3.s3_errors(self.place / name):
            self.client.upload_fileobj(BytesIO(data), self.bucket, self.prefix + name)

    def keep(self, names: set[str]) -> None:
        removed = self.names() - names
        with s3.s3_errors(self.place):
            for name in removed:
                self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)
        s3.abort_unfinished_uploads(self.bucket, self.prefix, before=self._begun)

    def held(self) -> AbstractContextManager[None]:
        """S3 has no locks, and equal trainings at once write equal checkpoints; only try that they can be written."""
        probe(self.place, removes=True)
        return nullcontext()
