"""The labelled file of NYU Depth v2, MATLAB 7.3, which is HDF5.

MATLAB's order of axes comes out reversed: ``images`` is (N, 3, 640, 480) uint8, ``depths`` (holes filled by the
authors) and ``rawDepths`` (as measured, 0 where nothing was) are (N, 640, 480) float32 metres along the optical axis,
seen from the colour camera. ``scenes`` names each image's scene.
"""

import atexit
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.images import encode_depth, encode_image
from simipu_core.errors import SimipuError
from simipu_core.storage import StorageError, seekable

IMAGES = "images"
_LONGEST_NAME = 256
_LARGEST_CHUNK = 1 << 28
_LARGEST_SIDE = 1 << 13
_MOST_IMAGES = 1 << 16
_FARTHEST = 65.0
_UNKNOWN = "unknown"
_FAULTS = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, zlib.error)
"""What h5py raises for damaged files."""


def open_labelled(file: Path) -> "LabelledFile":
    """The file, kept open from call to call in each process while it stays the same.

    Raises:
        BrokenFrameError: it cannot be read as HDF5.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise BrokenFrameError(file, f"cannot be read ({error.strerror})") from None
    return _opened(file, (status.st_size, status.st_mtime_ns))


def read_record(record: Path, depth_scale: float) -> bytes:
    """The image or depth map of a record, as a PNG file.

    Args:
        record: reference to it, ``file.mat#0012.images``.
        depth_scale: steps a metre of the depth map's file.

    Raises:
        BrokenFrameError: it is not there, cannot be read, or holds no sound depths.
    """
    name, _, key = record.name.partition("#")
    index, _, variable = key.partition(".")
    try:
        pixels = open_labelled(record.with_name(name)).pixels(variable, int(index))
        if variable == IMAGES:
            return encode_image(pixels)
        if not (pixels.min() >= 0 and pixels.max() < _FARTHEST):  # false for NaN
            raise BrokenFrameError(record, f"holds depths outside 0–{_FARTHEST:g} m")
        return encode_depth(pixels, depth_scale)
    except StorageError:
        raise
    except SimipuError as error:
        raise BrokenFrameError(record, str(error)) from None
    except _FAULTS:
        raise BrokenFrameError(record, "cannot be read from the HDF5 file (damaged or truncated)") from None


class LabelledFile:
    """An open file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._hdf5 = h5py.File(seekable(file), "r", rdcc_nbytes=1 << 26)
        except _FAULTS:
            raise BrokenFrameError(file, "cannot be read as HDF5 (damaged, or a MATLAB file before 7.3)") from None

    def count(self, depths: str) -> int:
        """Number of images.

        Raises:
            BrokenFrameError: the variables are not there, or do not fit one another.
        """
        images, maps = self._variable(IMAGES, "u1", 4), self._variable(depths, "f4", 3)
        if images.shape[1] != 3 or images.shape[2:] != maps.shape[1:] or len(images) != len(maps):
            shapes = f"{IMAGES} {images.shape} and {depths} {maps.shape}"
            raise BrokenFrameError(self._file, f"its variables {shapes} do not fit one another")
        return len(images)

    def scene(self, index: int) -> str:
        """Name of an image's scene; ``unknown`` where there is none."""
        try:
            cell = self._hdf5["scenes"]
            letters = self._hdf5[cell[0, index] if cell.shape[0] == 1 else cell[index, 0]]
            if letters.size > _LONGEST_NAME or letters.dtype.kind != "u" or _is_elsewhere(letters):
                return _UNKNOWN
            name = "".join(map(chr, letters[()].ravel().tolist()))
        except _FAULTS:
            return _UNKNOWN
        return name if name.replace("_", "").isalnum() and name.isascii() else _UNKNOWN

    def pixels(self, variable: str, index: int) -> NDArray[Any]:
        """(H, W, 3) uint8 RGB of ``images``, or (H, W) float32 metres of a depth variable."""
        data = self._variable(variable, *(("u1", 4) if variable == IMAGES else ("f4", 3)))
        if not 0 <= index < len(data):
            raise BrokenFrameError(self._file, f"has no image {index}")
        return np.asarray(data[index].T, data.dtype.newbyteorder("="))

    def _variable(self, name: str, dtype: str, axes: int) -> Any:
        """A variable; nothing of it is read yet.

        Raises:
            BrokenFrameError: missing, of another type or number of axes, of absurd size, or kept in another file.
        """
        try:
            link = self._hdf5.get(name, getlink=True)
            data = self._hdf5[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(data, h5py.Dataset) or _is_elsewhere(data):
                raise BrokenFrameError(self._file, f"has no variable {name}")
            chunk = np.prod(data.chunks or (1,), dtype=np.float64) * data.dtype.itemsize
        except _FAULTS:
            raise BrokenFrameError(self._file, f"has no variable {name} that can be read") from None
        is_sane = (
            data.ndim == axes
            and 0 < len(data) <= _MOST_IMAGES
            and 0 < min(data.shape[1:]) <= max(data.shape[1:]) <= _LARGEST_SIDE
            and chunk <= _LARGEST_CHUNK
        )
        if not is_sane or data.dtype.str[1:] != dtype:
            raise BrokenFrameError(self._file, f"its variable {name} is {data.dtype} {data.shape}, not a NYU variable")
        return data


def _is_elsewhere(data: Any) -> bool:
    """Whether a dataset's values lie in other files."""
    return bool(data.external) or bool(data.is_virtual)


@lru_cache(maxsize=1)
def _opened(file: Path, _version: tuple[int, int]) -> "LabelledFile":
    return LabelledFile(file)


atexit.register(_opened.cache_clear)  # HDF5 crashes where an open file of ranges outlives the interpreter
