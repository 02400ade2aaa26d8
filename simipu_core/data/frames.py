"""What a listing of raw data yields: frames that look complete, and those that do not with the reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.lenses import Lens

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image with what belongs to it; the files are not opened yet."""

    sample_id: str
    """Source, sequence and file stem joined by slashes; unique."""
    source: str
    sequence: str
    """Drive, scene folder, or the source's name where frames are independent."""
    image: Path
    """A file, or a record in one, which its source can read; so are `points` and `depth`."""
    intrinsics: tuple[float, ...]
    """3×3 row-major, camera metres to pixels."""
    points: Path | None = None
    """Scan in the source's own format."""
    lidar_to_camera: tuple[float, ...] | None = None
    """4×4 row-major, sensor frame to camera frame, metres."""
    depth: Path | None = None
    """16-bit PNG, or a record that is read as one."""
    depth_scale: float | None = None
    """Metres = value / depth_scale."""
    timestamp_us: int | None = None
    points_timestamp_us: int | None = None
    size: tuple[int, int] | None = None
    """Height and width that the calibration is for, where it says so."""
    lens: Lens | None = None
    """How the image is distorted; None: it is a pinhole camera's. Undone when the frame is packed."""
    distortion: tuple[float, ...] | None = None
    """Coefficients of the lens."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A broken frame: which file is to blame and why."""

    sample_id: str
    sequence: str
    file: Path
    reason: str


def too_much(frame: Frame, reason: str) -> Rejected:
    """A frame that took more than it may to read: which of its files is to blame is not known."""
    return Rejected(frame.sample_id, frame.sequence, frame.image, f"its frame {reason}")


Listing = Iterator[Frame | Rejected]


class BrokenFrameError(Exception):
    """A frame cannot be used; becomes a :class:`Rejected`."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def attempt(sample_id: str, sequence: str, make: Callable[[], Frame]) -> Frame | Rejected:
    """Make a frame, or say why it is broken."""
    try:
        return make()
    except BrokenFrameError as error:
        return Rejected(sample_id, sequence, error.file, error.reason)


def files_by_stem(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Files of a folder (none if it does not exist) by name without suffix, sorted."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}


def flat(matrix: NDArray[np.float64]) -> tuple[float, ...]:
    """Row-major values of a matrix."""
    return tuple(matrix.ravel().tolist())
