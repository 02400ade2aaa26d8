"""Rigid motions of points as (4, 4) float64 matrices, metres."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def pose(translation: Matrix, quaternion_xyzw: Matrix) -> Matrix:
    """(4, 4) of a translation (3,) and a quaternion (4,) other than zero, which is normalised."""
    from scipy.spatial.transform import Rotation  # loaded where it is needed: every source imports this module

    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(quaternion_xyzw).as_matrix()
    result[:3, 3] = translation
    return result


def inverse(motion: Matrix) -> Matrix:
    """The opposite of a rigid motion, (4, 4)."""
    result = np.eye(4)
    result[:3, :3] = motion[:3, :3].T
    result[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return result


def rotation_error(motion: Matrix) -> float:
    """How far the (3, 3) part R is from a rotation or mirror image: the largest entry of |R · Rᵀ − 1|.

    Infinity, which passes no limit, for a matrix of another shape or with an entry that is no finite number.
    """
    if motion.shape != (4, 4) or not np.isfinite(motion).all():
        return float("inf")
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(motion[:3, :3] @ motion[:3, :3].T - np.eye(3)).max()
    return float(error) if np.isfinite(error) else float("inf")
