"""Point-to-point matching of two views by location."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

Points = NDArray[np.float32]


def match_points(a: Points, b: Points, pairing: Literal["index", "mutual_nearest", "hungarian"]) -> NDArray[np.int64]:
    """For each of `a` (M, 3) the index of its partner in `b` (M, 3), or -1; metres in one frame.

    `index` is for points that are known to be the same, row by row.
    """
    if pairing == "index":
        return np.arange(len(a))
    return hungarian(a, b) if pairing == "hungarian" else mutual_nearest(a, b)


def mutual_nearest(a: Points, b: Points) -> NDArray[np.int64]:
    """For each of `a` (M, 3) the index in `b` (K, 3) where both are each other's nearest, else -1; metres."""
    to_b = np.asarray(KDTree(b).query(a)[1])
    to_a = np.asarray(KDTree(a).query(b)[1])
    return np.where(to_a[to_b] == np.arange(len(a)), to_b, -1)


def hungarian(a: Points, b: Points) -> NDArray[np.int64]:
    """The permutation of `b` (M, 3) that minimises the summed distance to `a` (M, 3), without a distance cap.

    This is the published pairing (docs/method.md, "Positives"): every point gets a partner, near or far.
    """
    columns: NDArray[np.int64] = linear_sum_assignment(cdist(a, b))[1]
    return columns
