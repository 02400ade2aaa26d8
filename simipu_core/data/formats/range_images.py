"""Waymo range images to points: a pure function of arrays, in the conventions of the data set's own tools.

A range image has one row a beam, top first, and one column a firing. Columns turn clockwise seen from above: the
middle one looks along the vehicle's x, the edges look back. Channels: range in metres (not positive: no return),
intensity, elongation, and 1 where the pixel lies in a no-label zone.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def uniform_inclinations(low: float, high: float, rows: int) -> NDArray[np.float64]:
    """Inclinations at the centres of `rows` equal steps between two angles, ascending, (rows,) radians."""
    return low + (np.arange(rows) + 0.5) / rows * (high - low)


def is_return(image: Floats) -> NDArray[np.bool_]:
    """Which pixels of a range image (H, W, 4) become points, (H, W); a range that is NaN makes one that is."""
    return np.asarray(~(image[..., 0] <= 0) & (image[..., 3] != 1))


def to_points(
    image: Floats,
    inclinations: Floats,
    extrinsic: Floats,
    pixel_pose: Floats | None = None,
    vehicle_pose: Floats | None = None,
) -> NDArray[np.float32]:
    """Points of one return of one LiDAR. Pixels without a return or in a no-label zone are left out.

    Args:
        image: (H, W, 4) range image.
        inclinations: (H,) beam angles above the sensor's horizon, ascending, radians.
        extrinsic: (4, 4) sensor frame to vehicle frame, metres.
        pixel_pose: (H, W, 6) roll, pitch, yaw in radians and x, y, z in metres of the vehicle in the world when each
            pixel was measured; None where the scan is taken as instantaneous.
        vehicle_pose: (4, 4) vehicle frame to world at the frame's time; needed with `pixel_pose`.

    Returns:
        (N, 4) x, y, z in the vehicle frame at the frame's time, metres, and tanh of the intensity, 0–1; row by row.
        Where a range or an intensity is not finite, neither is the point.
    """
    row, column = np.nonzero(is_return(image))
    distance, intensity = image[row, column, 0].astype(np.float64), image[row, column, 1]
    elevation = np.asarray(inclinations, np.float64)[::-1][row]
    yaw = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])
    azimuth = np.pi * (1 - (2 * column + 1) / image.shape[1]) - yaw
    level = np.cos(elevation)
    rays = np.stack((np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(elevation)))
    distance[~np.isfinite(distance)] = np.nan
    points = _move(extrinsic, rays * distance)
    if pixel_pose is not None and vehicle_pose is not None:
        points = _move(np.linalg.inv(vehicle_pose), _to_world(points, pixel_pose[row, column].T.astype(np.float64)))
    return np.column_stack((points.T, squashed(intensity))).astype(np.float32)


def squashed(intensity: Floats) -> NDArray[np.floating]:
    """Intensities squashed to 0–1 by tanh; NaN where they are not finite."""
    return np.tanh(np.where(np.isfinite(intensity), intensity, np.nan))


def _move(transform: Floats, points: Floats) -> NDArray[np.float64]:
    transform = np.asarray(transform, np.float64)
    # einsum, not @: BLAS starts a thread per CPU for these thin products, in every worker process
    return np.asarray(np.einsum("ij,jn->in", transform[:3, :3], points) + transform[:3, 3:])


def _to_world(points: Floats, pose: Floats) -> NDArray[np.float64]:
    """Move each of the points (3, N) by its own pose (6, N): roll about x, then pitch about y, then yaw about z."""
    x, y, z = points
    (cos_roll, cos_pitch, cos_yaw), (sin_roll, sin_pitch, sin_yaw) = np.cos(pose[:3]), np.sin(pose[:3])
    y, z = cos_roll * y - sin_roll * z, sin_roll * y + cos_roll * z
    x, z = cos_pitch * x + sin_pitch * z, cos_pitch * z - sin_pitch * x
    x, y = cos_yaw * x - sin_yaw * y, sin_yaw * x + cos_yaw * y
    return np.stack((x, y, z)) + pose[3:]
