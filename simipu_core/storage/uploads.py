"""Folders into buckets, whole or not at all."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from simipu_core import project
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, draft_folder
from simipu_core.progress import progress
from simipu_core.storage import s3
from simipu_core.storage.probe import probe
from simipu_core.storage.s3 import StorageError
from simipu_core.storage.s3_path import S3Path, forget_listings

_PART = 16 << 20
_FILES_AT_ONCE, _PARTS_AT_ONCE = 4, 4


@contextmanager
def new_remote_folder(out: S3Path, last: str) -> Iterator[Path]:
    """Write a folder in S3: when the block ends without an error its files are uploaded, `last` at the end.

    Args:
        out: where to; must not hold `last` yet.
        last: name of the file by which readers know that all are there.

    Yields:
        A temporary local folder to write into, in the cache.

    Raises:
        SimipuError: `out` exists, the disk is full or not writable, or S3 fails.
    """
    check_new(out, last)
    name = f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:16]}"
    with disk_errors(project.cache()), draft_folder(project.cache() / "outgoing" / name) as draft:
        yield draft
        upload_folder(draft, out, last)


def check_new(out: S3Path, last: str) -> None:
    """Check that a folder can be made in S3, and written.

    Raises:
        SimipuError: it is there already, or S3 fails.
    """
    if not out.key:
        raise SimipuError(f"{out}: is a whole bucket; write s3://bucket/prefix.")
    forget_listings()
    if (out / last).is_file():
        raise SimipuError(f"{out}: already exists; remove it or choose another output folder.")
    probe(out)


def upload_folder(folder: Path, destination: S3Path, last: str) -> None:
    """Upload the files of a folder; the one called `last`, which tells readers that all are there, comes last.

    Files appear whole or not at all; what killed uploads left of theirs is removed first.

    Raises:
        StorageError: S3 fails, or another process wrote `last` meanwhile.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    s3.abort_unfinished_uploads(destination.bucket, destination.prefix)
    with progress("upload", len(names)) as advance:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            others = [pool.submit(_upload, folder / name, destination / name) for name in names if name != last]
            for _ in s3.results(pool, others):
                advance()
        _put_new(destination / last, (folder / last).read_bytes())
        advance()
    forget_listings()


def _upload(file: Path, destination: S3Path) -> None:
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=_PARTS_AT_ONCE)
    client = s3.client()
    with s3.s3_errors(destination):
        client.upload_file(str(file), destination.bucket, destination.key, Config=config)


def _put_new(destination: S3Path, data: bytes) -> None:
    """Write an object that is not there yet; it may be there when an answer was lost and the request repeated.

    Where the server cannot refuse to replace one, it is looked for before and read after.
    """
    client, item = s3.client(), {"Bucket": destination.bucket, "Key": destination.key}
    with s3.s3_errors(destination):
        if probe(destination.parent):
            with s3.unless(s3.TAKEN) as taken:
                client.put_object(**item, Body=data, IfNoneMatch="*")
            is_ours = not taken or _holds(destination, data)
        else:
            forget_listings()
            is_ours = not destination.is_file()
            if is_ours:
                client.put_object(**item, Body=data)
                is_ours = _holds(destination, data)
    if not is_ours:
        raise StorageError(
            f"{destination.parent}: another process has written there meanwhile, and has won; use what it wrote, or "
            "choose another output folder."
        )


def _holds(file: S3Path, data: bytes) -> bool:
    try:
        return file.read_bytes() == data
    except FileNotFoundError:  # another one is at it
        return False
