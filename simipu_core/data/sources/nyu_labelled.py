"""NYU Depth v2, labelled: 1,449 images with depth in one MATLAB 7.3 file, which is HDF5; see `FILE`.

MATLAB's order of axes comes out reversed: ``images`` is (N, 3, 640, 480) uint8, ``depths`` (holes filled by the
authors) and ``rawDepths`` (as measured, 0 where nothing was) are (N, 640, 480) float32 metres along the optical axis,
seen from the colour camera. ``scenes`` names each image's scene.

An image and its depth map are records of the file; references to them end in ``.mat#0012.images`` and
``.mat#0012.rawDepths``, counted from 0 as the official split counts. They are read as PNG files, images without loss,
depth in millimetres.
"""

import atexit
import zlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.images import encode_depth, encode_image
from simipu_core.data.sources.base import BrokenFrameError, Frame, Listing, attempt
from simipu_core.data.sources.nyu import DEPTH_SCALE, INTRINSICS
from simipu_core.errors import SimipuError
from simipu_core.storage import StorageError, seekable

NAME = "nyu_labelled"
FILE = "nyu_depth_v2_labeled.mat"

_IMAGES = "images"
_DEPTHS = {"raw": "rawDepths", "in_painted": "depths"}
_LONGEST_NAME = 256
_LARGEST_CHUNK = 1 << 28
_LARGEST_SIDE = 1 << 13
_MOST_IMAGES = 1 << 16
_FARTHEST = 65.0
_UNKNOWN = "unknown"
_FAULTS = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, zlib.error)
"""What h5py raises for damaged files."""


def find(root: Path) -> Path | None:
    """Folder of the file, at or below the root, if there."""
    return next((folder for folder in (root / NAME, root / "nyu", root) if (folder / FILE).is_file()), None)


def frames(folder: Path, depth: str) -> Listing:
    """All images, in the order of the file, by scene name and number.

    Args:
        folder: holds the file.
        depth: `raw` or `in_painted`.

    Raises:
        SimipuError: the file is no labelled NYU file.
    """
    file = folder / FILE
    try:
        content = _open(file)
        count = content.count(_DEPTHS[depth])
    except BrokenFrameError as error:
        raise SimipuError(f"{error}; download {FILE} again.") from None
    for index in range(count):
        scene = content.scene(index)
        sample_id = f"{NAME}/{scene}/{index:04d}"
        yield attempt(sample_id, scene, partial(_frame, file, sample_id, scene, index, _DEPTHS[depth]))


def is_record(file: Path) -> bool:
    """Whether a path is a reference to a record."""
    return ".mat#" in file.name


def read(record: Path) -> bytes:
    """The image or depth map of a record, as a PNG file.

    Raises:
        BrokenFrameError: it is not there, cannot be read, or holds no sound depths.
    """
    name, _, key = record.name.partition("#")
    index, _, variable = key.partition(".")
    try:
        pixels = _open(record.with_name(name)).pixels(variable, int(index))
        if variable == _IMAGES:
            return encode_image(pixels)
        if not (pixels.min() >= 0 and pixels.max() < _FARTHEST):  # false for NaN
            raise BrokenFrameError(record, f"holds depths outside 0–{_FARTHEST:g} m")
        return encode_depth(pixels, DEPTH_SCALE)
    except StorageError:
        raise
    except SimipuError as error:
        raise BrokenFrameError(record, str(error)) from None
    except _FAULTS:
        raise BrokenFrameError(record, "cannot be read from the HDF5 file (damaged or truncated)") from None


class _Labelled:
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
        images, maps = self._variable(_IMAGES, "u1", 4), self._variable(depths, "f4", 3)
        if images.shape[1] != 3 or images.shape[2:] != maps.shape[1:] or len(images) != len(maps):
            shapes = f"{_IMAGES} {images.shape} and {depths} {maps.shape}"
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
        data = self._variable(variable, *(("u1", 4) if variable == _IMAGES else ("f4", 3)))
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


def _frame(file: Path, sample_id: str, scene: str, index: int, depths: str) -> Frame:
    return Frame(
        sample_id=sample_id,
        source=NAME,
        sequence=scene,
        image=file.with_name(f"{file.name}#{index:04d}.{_IMAGES}"),
        intrinsics=INTRINSICS,
        depth=file.with_name(f"{file.name}#{index:04d}.{depths}"),
        depth_scale=DEPTH_SCALE,
    )


def _open(file: Path) -> _Labelled:
    """The file, kept open from call to call in each process while it stays the same."""
    try:
        status = file.stat()
    except OSError as error:
        raise BrokenFrameError(file, f"cannot be read ({error.strerror})") from None
    return _opened(file, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _opened(file: Path, _version: tuple[int, int]) -> _Labelled:
    return _Labelled(file)


atexit.register(_opened.cache_clear)  # HDF5 crashes where an open file of ranges outlives the interpreter
