import numpy as np
from numpy.typing import NDArray

from simipu_core.geometry.rigid import PointAugmentation
from simipu_core.geometry.sampling import farthest_points

POINTS = np.random.default_rng(0).uniform([0, -40, -3], [70, 40, 1], (400, 3)).astype(np.float32)


def slow_farthest_points(xyz: NDArray[np.float32], num: int, start: int) -> list[int]:
    picked = [start]
    while len(picked) < num:
        distances = np.linalg.norm(xyz[:, None].astype(np.float64) - xyz[picked], axis=2).min(axis=1)
        picked.append(int(distances.argmax()))
    return picked


def test_equals_the_definition() -> None:
    assert farthest_points(POINTS, 60, 7).tolist() == slow_farthest_points(POINTS, 60, 7)


def test_levels_are_prefixes() -> None:
    picked = farthest_points(POINTS, 100, 3)
    assert farthest_points(POINTS, 40, 3).tolist() == picked[:40].tolist()
    assert farthest_points(POINTS[picked], 40, 0).tolist() == list(range(40))


def test_both_views_pick_the_same_points_from_the_same_start() -> None:
    moved = PointAugmentation((35.2, 0, -1), 0.7, 1.2, True).apply(POINTS)
    assert farthest_points(moved, 100, 3).tolist() == farthest_points(POINTS, 100, 3).tolist()
