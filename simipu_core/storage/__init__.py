"""From an address to the data behind it, checked.

A place is a local path or ``s3://bucket/prefix``. Raw data may also be given as a pinned place, which names the
content as well, or as the object of a DVC directory, locally or in S3.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from simipu_core import addresses
from simipu_core.errors import SimipuError
from simipu_core.storage import dvc
from simipu_core.storage.s3 import StorageError
from simipu_core.storage.s3_path import S3Path, forget_listings, seekable

__all__ = [
    "S3Path",
    "StorageError",
    "absolute",
    "forget_listings",
    "local_place",
    "pin",
    "place",
    "resolve",
    "seekable",
    "split_pin",
]

_PINNED = re.compile(r"(?P<place>.+)#(?P<digest>[0-9a-f]{64})")


def place(address: str) -> Path:
    """The path of an address (see `simipu_core.addresses`).

    Raises:
        SimipuError: it is of another storage, or no sound address.
    """
    known = addresses.plain(address)
    return S3Path.at(known) if known.startswith(addresses.S3) else Path(known)


def local_place(address: str) -> Path:
    """The local path of an address.

    Raises:
        SimipuError: it is in S3 or another storage.
    """
    found = place(address)
    if isinstance(found, S3Path):
        raise StorageError(f"{address}: is needed on a local disk here; give a local path.")
    return found


def split_pin(address: str) -> tuple[str, str | None]:
    """What is pinned by ``address#sha256``, and the digest; the address itself and None where it is not pinned."""
    pinned = _PINNED.fullmatch(address)
    return (pinned["place"], pinned["digest"]) if pinned else (address, None)


def absolute(uri: str) -> str:
    """A URI of :func:`resolve` that does not depend on the current folder."""
    return str(place(uri).absolute())


def pin(path: Path) -> str:
    """URI of a folder as it is now: its absolute path and a digest of its listing.

    No content is read. The listing has each file's name, size, time of modification and time of change (ctime); the
    last is the kernel's own, which no program sets, so that every change that is made through it shows. In S3 it has
    ETags. What rots on the disk unseen is found by the checksums of ingest's catalogue, when pair reads.

    Raises:
        SimipuError: no such folder, or S3 fails.
    """
    folder = _folder(path)
    return f"{folder}#{_digest(folder)}"


_SET_ROOT = "set `root` of pretrain_data or depth_data, or --data, to the folder that holds the raw data"


def resolve(uri: str, workdir: Path | None = None, mend: str = _SET_ROOT) -> Path:
    """Folder that holds the data of a URI: a local one, or an `S3Path`, whose files are read when they are needed.

    Args:
        uri: a path or S3 address, the answer of :func:`pin`, or ``…/files/md5/ab/cdef….dir`` in a DVC cache or remote;
            the last is linked or downloaded, and verified.
        workdir: where folders of links to DVC objects are made; ``build/dvc-views`` by default.
        mend: what to do where there is no such folder.

    Returns:
        Absolute folder; read-only use.

    Raises:
        SimipuError: it is not there, is incomplete, or changed since it was pinned; or S3 fails.
    """
    address, digest = split_pin(uri)
    if digest:
        folder = _folder(place(address), mend)
        if _digest(folder) != digest:
            raise SimipuError(f"{folder}: its files changed since the run was submitted; submit the run again.")
        return folder
    if directory := dvc.parse(place(uri).absolute()):
        return dvc.view(directory, workdir or Path("build/dvc-views"))
    return _folder(place(uri), mend)


def _folder(path: Path, mend: str = _SET_ROOT) -> Path:
    forget_listings()
    if not path.is_dir():
        is_what = "is a file, which must be unpacked if it is an archive" if path.is_file() else "no such folder"
        raise SimipuError(f"{path}: {is_what}; {mend}.")
    return path.absolute()


def _digest(folder: Path) -> str:
    lines = _lines_s3(folder) if isinstance(folder, S3Path) else _lines(folder)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _lines_s3(folder: S3Path) -> Iterator[str]:
    for path, entry in folder.walk():
        yield f"{path.relative_to(folder).as_posix()}\0{entry.size}\0{entry.etag}\n"


def _lines(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for file in (Path(parent, name) for name in names):
            try:
                status = file.stat()
            except OSError as error:
                raise SimipuError(f"{file}: cannot be read ({error.strerror}); mend or remove it.") from None
            facts = file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns
            yield "\0".join(map(str, facts)) + "\n"
