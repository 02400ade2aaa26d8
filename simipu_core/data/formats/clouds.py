"""Point clouds in common file formats: one function for all, with bounds on what a file may ask for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core.data.formats import las, ply
from simipu_core.data.formats.scans import check_width
from simipu_core.data.npy import parse_npy
from simipu_core.data.parquet import PARQUET_ERRORS
from simipu_core.errors import SimipuError

MOST_POINTS = 1 << 24
"""Of one scan; today's densest spinning LiDARs give a thirtieth of it."""
INTENSITY = ("intensity", "reflectance", "reflectivity", "i")
"""Names under which the strength of the return is looked for, in this order."""

_AXES = ("x", "y", "z")
Columns = dict[str, NDArray[Any]]


def parse_cloud(
    data: bytes, suffix: str, columns: tuple[str, ...] = ("x", "y", "z", "intensity"), scale: float | None = 1.0
) -> NDArray[np.float32]:
    """Points of a scan file.

    Args:
        data: content of the file.
        suffix: one of `scans.CLOUD_SUFFIXES`; decides the format.
        columns: names of the numbers of a point in ``.bin`` (little-endian float32) and in plain ``.npy`` arrays;
            the other formats name theirs.
        scale: raw value of reflectance 1; None where there is no intensity: reflectance is then 0.

    Returns:
        (N, 4) x, y, z as stored, in metres, and reflectance 0–1; of points that are no measurements, any number.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    found = _columns(data, suffix, columns)
    if missing := [axis for axis in _AXES if axis not in found]:
        raise SimipuError(f"has no column {missing[0]} (it has {_listed(found)})")
    points = np.zeros((len(found["x"]), 4), np.float64)
    for index, axis in enumerate(_AXES):
        points[:, index] = _numbers(found, axis)
    if scale is not None:
        name = next((name for name in INTENSITY if name in found), None)
        if name is None:
            raise SimipuError(
                f"has no column {INTENSITY[0]} (it has {_listed(found)}); set the LiDAR's reflectance_scale to null"
            )
        with np.errstate(over="ignore"):
            points[:, 3] = _numbers(found, name) / scale
    with np.errstate(over="ignore"):
        result = points.astype(np.float32)
    strengths = result[np.isfinite(result).all(axis=1), 3]
    low, high = strengths.min(initial=0), strengths.max(initial=0)
    if low < 0 or high > 1:
        stored = scale or 1.0
        raise SimipuError(
            f"has intensities from {low * stored:g} to {high * stored:g}, but the LiDAR's reflectance_scale is "
            f"{stored:g}: they must lie between 0 and it"
        )
    return result


def _columns(data: bytes, suffix: str, names: tuple[str, ...]) -> Columns:
    if suffix == ".bin":
        check_width(data, len(names), "name each of them in the LiDAR's `columns`")
        stride = 4 * len(names)
        if len(data) % stride:
            raise SimipuError(
                f"truncated ({len(data)} bytes are no whole number of {stride}-byte points of {', '.join(names)})"
            )
        return _named(np.frombuffer(data, "<f4").reshape(-1, len(names)), names)
    if suffix == ".npy":
        return _from_npy(parse_npy(data), names)
    if suffix == ".pcd":
        from simipu_core.data.formats import pcd  # which loads Numba

        return pcd.parse(data, MOST_POINTS)
    if suffix == ".ply":
        return ply.parse(data, MOST_POINTS)
    if suffix in (".las", ".laz"):
        return las.parse(data, MOST_POINTS)
    return _from_parquet(data)


def _from_npy(array: NDArray[Any], names: tuple[str, ...]) -> Columns:
    if array.dtype.names:
        if array.ndim != 1:
            raise SimipuError(f"has {array.ndim} axes, but a structured array of points has one")
        return {name: array[name] for name in array.dtype.names}
    if array.ndim != 2 or array.shape[1] != len(names):
        raise SimipuError(f"has the shape {array.shape}, not (N, {len(names)}) for {', '.join(names)}")
    return _named(array, names)


def _named(table: NDArray[Any], names: tuple[str, ...]) -> Columns:
    if len(table) > MOST_POINTS:
        raise SimipuError(f"has {len(table)} points; 1 to {MOST_POINTS} are read")
    return {name: table[:, index] for index, name in enumerate(names)}


def _from_parquet(data: bytes) -> Columns:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows > MOST_POINTS:
            raise SimipuError(f"says it has {file.metadata.num_rows} points; 1 to {MOST_POINTS} are read")
        schema = file.schema_arrow
        wanted = [name for name in schema.names if name in (*_AXES, *INTENSITY)]
        for name in wanted:
            if schema.names.count(name) > 1 or not _is_number(schema.field(name).type):
                raise SimipuError(f"has a column {name} that is not one number a point")
        table = file.read(wanted, use_threads=False)
        if any(table[name].null_count for name in wanted):
            raise SimipuError("has points without a value (null)")
        return {name: table[name].to_numpy() for name in wanted}
    except MemoryError:  # Arrow's own is one of the others, too
        raise
    except PARQUET_ERRORS:
        raise SimipuError("cannot be read as Parquet (damaged or truncated)") from None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numbers(found: Columns, name: str) -> NDArray[np.float64]:
    values = found[name]
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        raise SimipuError(f"has a column {name} of {values.dtype}, not of one number a point")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return values.astype(np.float64)


def _listed(found: Columns) -> str:
    return ", ".join(list(found)[:8]) or "none"
