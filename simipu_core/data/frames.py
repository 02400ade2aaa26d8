"""What a listing of raw data yields: frames that look complete, and those that do not with the reason."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.lenses import Lens

_MACHINES = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")
"""Folders that storage devices, archives of other systems, and file systems add."""
_DOT = re.compile(r"\.")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_DIGITS = re.compile(r"([0-9]+)")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".exr")
FLOAT_SCALE = 256.0
"""Steps a metre of depth maps that hold metres; they reach to 255 m."""


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


def by_cause(broken: Iterable[Rejected], name: Callable[[Path], str]) -> list[str]:
    """Broken frames in words, those that are broken in the same way together, most first.

    Args:
        broken: the frames.
        name: a file's name for people.
    """
    causes: dict[str, list[Path]] = {}
    for each in broken:
        causes.setdefault(each.reason, []).append(each.file)
    told = []
    for reason, files in sorted(causes.items(), key=lambda cause: -len(cause[1])):
        distinct = list(dict.fromkeys(files))
        others = f" and {len(distinct) - 1:,} more" if len(distinct) > 1 else ""
        told.append(f"{name(distinct[0])}{others}: {reason}")
    return told


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


class Files(dict[str, Path]):
    """Files by name without suffix."""

    doubles: Mapping[str, Path] = MappingProxyType({})
    """Those whose name without suffix another one has, too."""
    others: Mapping[str, str] = MappingProxyType({})
    """Names of files with other suffixes, hidden or not, by what stands before any of their dots."""
    absent: str = ""
    """That there is no such folder, in words, if so."""

    def find(self, stem: str) -> Path | None:
        """The file of this name, if there.

        Raises:
            BrokenFrameError: there are two; which one is meant cannot be known.
        """
        file = self.get(stem)
        if file and stem in self.doubles:
            raise double(file, self.doubles[stem])
        return file

    def instead(self, stem: str) -> str:
        """What lies there in place of a file that is missing: a copy cut off (``000003.png.part``), another format."""
        name = self.others.get(stem)
        return f"; there is only {_shown(name)}" if name else self.absent


def double(file: Path, other: Path) -> BrokenFrameError:
    """The error for a file beside which another one lies that could be meant as well."""
    return BrokenFrameError(file, f"lies there as {other.name}, too; remove one of the two")


def files_by_stem(folder: Path, *suffixes: str) -> Files:
    """Files of a folder (none if it does not exist) by name without suffix, in natural order.

    Hidden files, such as those that macOS puts beside each of its own (``._000001.png``), are none.
    """
    found, doubles, others = Files(), dict[str, Path](), dict[str, str]()
    for path in sorted(folder.iterdir(), key=lambda path: natural(path.name)) if folder.is_dir() else ():
        if path.suffix.lower() in suffixes and not is_hidden(path):
            (doubles if path.stem in found else found)[path.stem] = path
        else:
            name = path.name.lstrip(".")
            others |= {name[: dot.start()]: path.name for dot in _DOT.finditer(name)}
    found.doubles, found.others = doubles, others
    if not folder.is_dir():
        near = [path.name for path in folder.parent.glob("*") if path.stem.casefold() == folder.name.casefold()]
        found.absent = f"; there is no folder {folder.name}{f', only {_shown(min(near))}' if near else ''}"
    return found


def _shown(name: str) -> str:
    """A name for people; what is no plain character is written as an escape."""
    return name.encode("ascii", "backslashreplace").decode()


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is called like a hidden one, or like those that machines put beside others."""
    return path.name.startswith(".") or path.name in _MACHINES


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Key by which names are put into the order that their numbers count: ``a2`` before ``a10``."""
    parts = _DIGITS.split(name)
    return [(int(part) if odd % 2 else -1, "" if odd % 2 else part) for odd, part in enumerate(parts)], name


def flat(matrix: NDArray[np.float64]) -> tuple[float, ...]:
    """Row-major values of a matrix."""
    return tuple(matrix.ravel().tolist())
