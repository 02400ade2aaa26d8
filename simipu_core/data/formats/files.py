"""Files of raw data as they are."""

import stat
from pathlib import Path

from simipu_core.data.frames import BrokenFrameError
from simipu_core.storage import S3Path

_MOST_BYTES = 1 << 30
"""Of one image, depth map or scan."""


def read_text(file: Path) -> str:
    """A text file; a byte-order mark at its beginning, as editors on Windows write it, is no part of it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    return file.read_text(encoding="utf-8-sig")


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
        elif not stat.S_ISREG((status := file.stat()).st_mode):
            raise BrokenFrameError(file, "is no file")
        else:
            data = file.read_bytes() if status.st_size <= _MOST_BYTES else None
    except OSError as error:
        raise BrokenFrameError(file, f"cannot be read ({error.strerror})") from None
    if data is None or len(data) > _MOST_BYTES:
        raise BrokenFrameError(file, f"is larger than {_MOST_BYTES >> 20} MiB")
    return data
