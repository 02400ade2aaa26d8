"""LiDAR scans as files hold them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError

CLOUD_SUFFIXES = (".bin", ".npy", ".pcd", ".ply", ".parquet", ".las", ".laz")
"""Of files that `clouds.parse_cloud` reads."""
_NO_RANGE = 1e-3
"""Metres from the sensor within which nothing is measured: a pulse without a return is written so."""
_LOOKED_AT, _FEWEST = 1 << 16, 100
"""Floats by which it is told how many make a point, and points below which it is not."""
_WIDTHS = range(3, 9)
_CLEARLY = 2.0
_USUAL, _MOST_SHARE = (1e-6, 1e10), 0.9
"""Magnitudes of coordinates, intensities and times, and the share of a scan's numbers that have one."""
_TEXT, _TEXT_LOOKED_AT = b"0123456789+-.eE,; \t\r\n", 1 << 12


class Dropped(NamedTuple):
    """Points of a scan that are no measurements of their own, and were left out; each is counted once."""

    not_finite: int = 0
    """A coordinate or the reflectance is NaN or infinite."""
    at_origin: int = 0
    """In the sensor itself: pulses without a return."""
    repeated: int = 0
    """The same numbers as a point before."""


NONE_DROPPED = Dropped()


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan."""

    points: NDArray[np.float32]
    """(N, 4) x, y, z in metres, sensor frame, and reflectance 0–1; measurements only, see :func:`measured`."""
    sha256: str
    """Of everything stored that the points are made of."""
    dropped: Dropped = NONE_DROPPED


def measured(points: NDArray[np.float32]) -> tuple[NDArray[np.float32], Dropped]:
    """Leave out points that are no measurements: not finite, in the sensor itself, or there before.

    Args:
        points: (N, 3) x, y, z in metres, sensor frame, or (N, 4) with the reflectance.

    Returns:
        Those that stay, (M, 3) or (M, 4) in their order, and how many do not.

    Raises:
        SimipuError: none stays.
    """
    finite = np.isfinite(points).all(axis=1)
    away = (np.abs(points[:, :3]) > _NO_RANGE).any(axis=1)
    kept = np.asarray(finite & away)
    kept[_repeated(points, np.flatnonzero(kept))] = False
    count = int(kept.sum())
    num_finite, num_there = int(finite.sum()), int((finite & away).sum())
    dropped = Dropped(len(points) - num_finite, num_finite - num_there, num_there - count)
    if not count:
        reason = f" ({dropped.not_finite} are not finite, {dropped.at_origin} lie at the origin)" if len(points) else ""
        raise SimipuError(f"has no measured points{reason}")
    return (points if count == len(points) else points[kept]), dropped


def _repeated(points: NDArray[np.float32], indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of some points whose numbers are those of one before."""
    chosen = points[indices]
    order = np.lexsort(chosen.T)
    again = (chosen[order[1:]] == chosen[order[:-1]]).all(axis=1)
    return np.asarray(indices[order[1:][again]])


def parse_points(data: bytes, columns: int = 4) -> NDArray[np.float32]:
    """Read the bytes of a little-endian float32 scan.

    Args:
        data: content of the file.
        columns: floats a point.

    Returns:
        (N, columns) float32, as stored.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    check_width(data, columns, f"this layout's points are {columns}: write it so, or read it as `logs` with `columns`")
    if len(data) % (4 * columns):
        raise SimipuError(f"truncated ({len(data)} bytes are no whole number of {4 * columns}-byte points)")
    return np.frombuffer(data, "<f4").reshape(-1, columns)


def check_width(data: bytes, columns: int, mend: str) -> None:
    """Refuse what is no float32, and floats that clearly are another number a point.

    Coordinates and intensity spread differently, so that the numbers of one column are alike and those of two columns
    are not: but only if the columns are cut right.

    Args:
        data: little-endian float32.
        columns: floats a point as they are to be read.
        mend: what to say then.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    values: NDArray[Any] = np.frombuffer(data, "<f4", min(len(data) // 4, _LOOKED_AT))
    if len(values) < _FEWEST * columns:
        return
    _check_type(data)
    differences = {width: _difference(values, width) for width in {*_WIDTHS, columns}}
    fitting = [width for width in _WIDTHS if len(data) % (4 * width) == 0 and width % columns]
    best = max(fitting, key=differences.__getitem__, default=columns)
    if differences[best] > _CLEARLY * differences[columns]:
        raise SimipuError(f"has {best} floats a point, as its numbers repeat; {mend}")


def _check_type(data: bytes) -> None:
    """Refuse text, and numbers of another type: float32 of them would be of no magnitude that sensors measure."""
    if not data[:_TEXT_LOOKED_AT].translate(None, _TEXT):
        raise SimipuError("is text, not float32; own logs may hold it as .pcd or .ply")
    if _usual_share(data, "<f4") < _MOST_SHARE:
        for code, name in (("<f8", "float64"), (">f4", "big-endian float32")):
            if _usual_share(data, code) > _MOST_SHARE:
                raise SimipuError(f"holds {name}, not little-endian float32; write it with numpy as .astype('<f4')")


def _usual_share(data: bytes, code: str) -> float:
    """Share of the numbers, read as a type, that are 0 or of the magnitude of measurements."""
    kind = np.dtype(code)
    sizes: NDArray[Any] = np.abs(np.frombuffer(data, kind, min(len(data) // kind.itemsize, _LOOKED_AT)))
    return float(((sizes == 0) | ((sizes > _USUAL[0]) & (sizes < _USUAL[1]))).mean())


def _difference(values: NDArray[Any], width: int) -> float:
    """How much the columns differ if so many numbers are a point."""
    table = values[: len(values) // width * width].reshape(-1, width)
    with np.errstate(all="ignore"):
        finite = table[np.isfinite(table).all(axis=1)].astype(np.float64)
        if not len(finite):
            return 0.0
        return float(np.quantile(finite, (0.1, 0.5, 0.9), axis=0).std(axis=1).mean())
