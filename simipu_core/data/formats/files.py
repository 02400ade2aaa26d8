"""Files of raw data as they are."""

import codecs
import errno
import stat
from pathlib import Path
from typing import Literal

from simipu_core.data.frames import BrokenFrameError
from simipu_core.storage import S3Path

_MOST_BYTES = 1 << 30
"""Of one image, depth map or scan."""

_WEB_PAGE = "is a web page, as servers send it in place of a file that they do not give; download the file again"
_NO_DATA = {
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself (git lfs pull)",
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
"""What stands in place of files of any format, by its beginning in small letters."""
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_regular(file: Path) -> int:
    """Refuse what a reader may wait for, or never come to the end of: pipes, sockets, devices; and folders.

    Returns:
        Bytes of the file; 0 of one in S3, which is left to its reader, who asks once.

    Raises:
        OSError: it is no regular file, or not there.
    """
    if isinstance(file, S3Path):
        return 0
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(file))
    return status.st_size


def read_text(file: Path, errors: Literal["strict", "replace"] = "strict") -> str:
    """A text file in UTF-8, or in UTF-16 where its byte-order mark says so, as programs on Windows write it.

    The mark is no part of the text.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is in neither.
    """
    check_regular(file)
    data = file.read_bytes()
    return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig", errors)


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
            data = file.read_bytes() if check_regular(file) <= _MOST_BYTES else None
    except OSError as error:
        raise BrokenFrameError(file, f"cannot be read ({error.strerror})") from None
    if data is None or len(data) > _MOST_BYTES:
        raise BrokenFrameError(file, f"is larger than {_MOST_BYTES >> 20} MiB")
    for beginning, reason in _NO_DATA.items():
        if data[: len(beginning)].lower() == beginning:
            raise BrokenFrameError(file, reason)
    return data
