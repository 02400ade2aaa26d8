"""Lens distortion, and how it is undone. Configuration names lenses, so OpenCV is loaded when one is undone."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Lens = Literal["plumb_bob", "rational_polynomial", "equidistant"]
"""ROS's names: OpenCV's pinhole model with k1, k2, p1, p2 and perhaps k3; the same with k3–k6; OpenCV's fisheye."""

NUM_COEFFICIENTS: dict[Lens, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8,),
    "equidistant": (4,),
}


def undistort(
    image: NDArray[np.uint8], intrinsics: tuple[float, ...], lens: Lens, coefficients: tuple[float, ...]
) -> NDArray[np.uint8]:
    """The image that a pinhole camera with the same intrinsics would have taken.

    Args:
        image: (H, W, 3).
        intrinsics: 3×3 row-major, pixels.
        lens: model of the distortion.
        coefficients: in OpenCV's order.

    Returns:
        (H, W, 3); pixels that the lens did not see are black.
    """
    import cv2

    height, width = image.shape[:2]
    columns, rows = _maps(intrinsics, lens, coefficients, height, width)
    return np.asarray(cv2.remap(image, columns, rows, cv2.INTER_LINEAR), np.uint8)


def through_pinhole(image: NDArray[np.uint8], frame: Mapping[str, Any]) -> NDArray[np.uint8]:
    """A frame's image (H, W, 3) as its intrinsics promise it: undistorted, where its catalogue row names a lens."""
    if not frame["lens"]:
        return image
    return undistort(image, tuple(frame["intrinsics"]), frame["lens"], tuple(frame["distortion"]))


@lru_cache(maxsize=8)
def _maps(
    intrinsics: tuple[float, ...], lens: Lens, coefficients: tuple[float, ...], height: int, width: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where in the distorted image each pixel is found."""
    import cv2

    matrix, values = np.reshape(intrinsics, (3, 3)).astype(np.float64), np.array(coefficients, np.float64)
    find = cv2.fisheye.initUndistortRectifyMap if lens == "equidistant" else cv2.initUndistortRectifyMap
    columns, rows = find(matrix, values, np.eye(3), matrix, (width, height), cv2.CV_32FC1)
    return columns, rows
