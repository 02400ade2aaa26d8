"""What a frame's references stand for: the bytes of a file, a record in a file, or a scan's points."""

import hashlib
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.sources import logs, nuscenes, nyu_labelled, waymo, waymo_kitti
from simipu_core.data.sources.base import BrokenFrameError
from simipu_core.data.sources.scans import Scan, parse_points
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path

_MOST_BYTES = 1 << 30
"""Of one image, depth map or scan."""


def component(file: Path) -> Path | None:
    """The Parquet component that a reference leads into, whose records are read fastest in order; None for a file."""
    return file.with_name(file.name.partition("#")[0]) if waymo.is_record(file) else None


def read_bytes(file: Path) -> bytes:
    """An image or depth file, as stored.

    Args:
        file: a file, or a record in one (``file.parquet#record``, ``file.mat#record``).

    Raises:
        BrokenFrameError: it cannot be read.
    """
    if waymo.is_record(file):
        return waymo.read_image(file)
    if nyu_labelled.is_record(file):
        return nyu_labelled.read(file)
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


def read_scan(file: Path, source: str) -> Scan:
    """The points of a scan.

    Args:
        file: a file, a record of a component, or a file with the camera that it is turned to.
        source: name of the frame's source, which decides how points are stored.

    Raises:
        BrokenFrameError: it cannot be read or holds no sound points.
    """
    if source == waymo.NAME:
        return waymo.read_scan(file)
    data = read_bytes(nuscenes.scan_file(file) if source == nuscenes.NAME else file)
    if source == logs.NAME:
        return logs.parse_scan(file, data)
    try:
        points = _parse(data, file, source)
    except SimipuError as error:
        raise BrokenFrameError(file, str(error)) from None
    low, high = points[:, 3].min(), points[:, 3].max()
    if low < 0 or high > 1:
        raise BrokenFrameError(file, f"has reflectances from {low:g} to {high:g}, not within 0 and 1")
    return Scan(points, hashlib.sha256(data).hexdigest())


def _parse(data: bytes, file: Path, source: str) -> NDArray[np.float32]:
    if source == waymo_kitti.NAME:
        return waymo_kitti.parse(data)
    if source == nuscenes.NAME:
        return nuscenes.parse(data, file)
    return parse_points(data)
