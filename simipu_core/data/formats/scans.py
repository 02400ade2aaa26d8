"""LiDAR scans as files hold them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError

CLOUD_SUFFIXES = (".bin", ".npy", ".pcd", ".parquet", ".las", ".laz")
"""Of files that `clouds.parse_cloud` reads."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan."""

    points: NDArray[np.float32]
    """(N, 4) x, y, z in metres, sensor frame, and reflectance 0–1."""
    sha256: str
    """Of everything stored that the points are made of."""


def parse_points(data: bytes, columns: int = 4) -> NDArray[np.float32]:
    """Read the bytes of a little-endian float32 scan.

    Args:
        data: content of the file.
        columns: floats a point.

    Returns:
        (N, columns) float32.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    if len(data) % (4 * columns):
        raise SimipuError(f"truncated ({len(data)} bytes are no whole number of {4 * columns}-byte points)")
    points = np.frombuffer(data, "<f4").reshape(-1, columns)
    if bad := int((~np.isfinite(points)).any(axis=1).sum()):
        raise SimipuError(f"has {bad} points that are not finite numbers")
    return points
