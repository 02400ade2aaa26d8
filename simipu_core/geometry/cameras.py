"""Pinhole cameras: LiDAR points to pixels.

Pixel (column i, row j) has its centre at u = i, v = j, as in KITTI's calibration. Camera axes are x right, y down,
z along the optical axis; all lengths are metres.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def project(
    points: ArrayLike, lidar_to_camera: ArrayLike, intrinsics: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project points of the sensor frame into the image.

    Args:
        points: (N, 3) metres in the sensor frame.
        lidar_to_camera: (4, 4) rigid transform, sensor frame to camera frame.
        intrinsics: (3, 3) camera metres to pixels.

    Returns:
        Pixel coordinates uv (N, 2) and depths along the optical axis (N,), metres, both float64. Where the depth
        is not positive uv means nothing; :func:`in_image` leaves such points out.
    """
    transform = np.asarray(lidar_to_camera, np.float64).reshape(4, 4)
    columns = np.ascontiguousarray(np.asarray(points).T, np.float64)
    # einsum, not @: BLAS starts a thread per CPU for these thin products, in every worker process
    camera = np.einsum("ij,jn->in", transform[:3, :3], columns) + transform[:3, 3:]
    pixels = np.einsum("ij,jn->in", np.asarray(intrinsics, np.float64).reshape(3, 3), camera)
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = (pixels[:2] / pixels[2]).T
    return uv, camera[2]


def in_image(
    uv: NDArray[np.floating],
    depth: NDArray[np.floating],
    height: int,
    width: int,
    depth_range: tuple[float, float] = (0.0, np.inf),
) -> NDArray[np.bool_]:
    """Which projected points lie in the camera's frustum (docs/method.md, "Frustum").

    Args:
        uv: (N, 2) pixel coordinates.
        depth: (N,) metres.
        height: rows of the image.
        width: columns of the image.
        depth_range: nearest and farthest depth, metres, exclusive; the nearest is not negative.

    Returns:
        (N,) true where 0 ≤ u < width, 0 ≤ v < height and the depth lies inside the range.
    """
    u, v = uv[:, 0], uv[:, 1]
    near, far = depth_range
    return (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth > near) & (depth < far)
