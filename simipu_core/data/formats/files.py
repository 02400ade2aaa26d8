"""Files of raw data as they are."""

import errno
import stat
from pathlib import Path
from typing import Literal

from simipu_core.data.frames import BrokenFrameError
from simipu_core.storage import S3Path

_MOST_BYTES = 1 << 30
"""Of one image, depth map or scan."""


def check_regular(file: Path) -> None:
    """Refuse what a reader may wait for, or never come to the end of: pipes, sockets, devices; and folders.

    Raises:
        OSError: it is no regular file, or not there. Of files in S3 this is left to their reader, which asks once.
    """
    if not isinstance(file, S3Path) and not stat.S_ISREG(file.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(file))


def read_text(file: Path, errors: Literal["strict", "replace"] = "strict") -> str:
    """A text file; a byte-order mark at its beginning, as editors on Windows write it, is no part of it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    check_regular(file)
    return file.read_text(encoding="utf-8-sig", errors=errors)


def read_file(file: Path) -> bytes:
    """The content of a file, here or in S3.

    Raises:
        BrokenFrameError: it cannot be read, or is larger than an image or a scan can be.
        StorageError: storage fails, which says nothing about the file.
    """
    data: bytes | None
    try:
        if isinstance(file, S3Path):  # asking for the size would take a listing of the folder
            data = file.read_beginning(_MOST_BYTES + 1)
        else:
            check_regular(file)
            data = file.read_bytes() if file.stat().st_size <= _MOST_BYTES else None
    except OSError as error:
        raise BrokenFrameError(file, f"cannot be read ({error.strerror})") from None
    if data is None or len(data) > _MOST_BYTES:
        raise BrokenFrameError(file, f"is larger than {_MOST_BYTES >> 20} MiB")
    return data
