"""Where checkpoints lie: a local folder or a prefix in S3. A store keeps named pieces of bytes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from simipu_core.errors import SimipuError

_S3 = "s3://"


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


def open_store(place: str | Path) -> Store:
    """The store of a folder, or of ``s3://bucket/prefix``.

    Raises:
        SimipuError: an S3 address without a bucket.
    """
    return S3Store(place) if isinstance(place, str) and place.startswith(_S3) else LocalStore(Path(place))


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
        partial = self.folder / f".{name}.partial"
        with self._errors("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self.folder / name)

    def keep(self, names: set[str]) -> None:
        with self._errors("written"):
            if not names:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            for path in self.folder.iterdir():
                if path.name not in names:
                    path.unlink()

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

    Every method raises a `SimipuError` where S3 does not answer or refuses; no credential is ever told.
    """

    def __init__(self, place: str) -> None:
        import boto3
        from botocore.config import Config  # type: ignore[import-untyped]

        self.place = place
        self.bucket, *folders = place.removeprefix(_S3).split("/")
        if not self.bucket:
            raise SimipuError(f"{place}: names no bucket; write s3://bucket/prefix.")
        self.prefix = "".join(f"{folder}/" for folder in folders if folder)
        with self._errors():
            # a session of its own: the default one keeps the first credentials that it sees
            self.client: Any = boto3.session.Session().client("s3", config=Config(retries={"mode": "standard"}))

    def names(self) -> set[str]:
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            return {entry["Key"].removeprefix(self.prefix) for page in pages for entry in page.get("Contents", [])}

    def read(self, name: str) -> bytes | None:
        with self._errors():
            try:
                return bytes(self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read())
            except self.client.exceptions.NoSuchKey:
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._errors():
            self.client.upload_fileobj(BytesIO(data), self.bucket, self.prefix + name)

    def keep(self, names: set[str]) -> None:
        removed = self.names() - names
        with self._errors():
            for name in removed:
                self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)
            unfinished = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix)
            for upload in unfinished.get("Uploads", []):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            yield
        except (BotoCoreError, Boto3Error, ClientError) as error:
            told = error.__context__ if isinstance(error, Boto3Error) else error
            reason = told.response["Error"]["Code"] if isinstance(told, ClientError) else type(told).__name__
            raise SimipuError(
                f"{self.place}: checkpoints cannot be read or written ({reason}); check the bucket, AWS_ENDPOINT_URL "
                "and the credentials."
            ) from None
