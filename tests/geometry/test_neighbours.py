from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.errors import SimipuError
from simipu_core.geometry.neighbours import ball_query

RADII, COUNTS = (1.0, 2.5, 6.0), (4, 8, 5)


def slow_ball_query(
    xyz: NDArray[np.float32], centres: NDArray[np.float32], ring: bool, order: str
) -> list[NDArray[np.int64]]:
    """One centre, one radius, one point at a time."""
    result = []
    for r, (radius, count) in enumerate(zip(RADII, COUNTS, strict=True)):
        low = np.float32(RADII[r - 1]) ** 2 if ring and r else np.float32(0)
        rows = []
        for centre in centres:
            squared = np.square(xyz - centre).astype(np.float32)
            distance = (squared[:, 0] + squared[:, 1]) + squared[:, 2]
            hits = [i for i, d in enumerate(distance) if d == 0 or (low <= d < np.float32(radius) ** 2)]
            if order == "nearest":
                hits.sort(key=lambda i: (distance[i], i))
            hits = hits[:count]
            rows.append(hits + [hits[0]] * (count - len(hits)))
        result.append(np.array(rows))
    return result


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("order", ["first", "nearest"])
@pytest.mark.parametrize("spread", [3.0, 20.0, 2000.0])
def test_equals_brute_force(ring: bool, order: Literal["first", "nearest"], spread: float) -> None:
    rng = np.random.default_rng(int(spread))
    xyz = rng.uniform(-spread, spread, (500, 3)).astype(np.float32)
    xyz[100:120] = xyz[:20]  # duplicates
    centres = xyz[:90]
    found = ball_query(xyz, centres, RADII, COUNTS, ring=ring, order=order)
    for ours, slow in zip(found, slow_ball_query(xyz, centres, ring, order), strict=True):
        np.testing.assert_array_equal(ours, slow)


def test_a_lonely_centre_is_its_own_neighbour() -> None:
    xyz = np.array([[0, 0, 0], [50, 0, 0]], np.float32)
    found = ball_query(xyz, xyz, (1.0, 2.0), (3, 2), ring=True, order="nearest")
    assert found[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found[1].tolist() == [[0, 0], [1, 1]]


def test_a_neighbour_within_a_rounding_step_of_the_radius_is_found() -> None:
    """With cells of just the radius, 163 of these lattices of nearly that width lost neighbours."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        step = np.float32(rng.uniform(0.1, 2))
        radius = np.nextafter(step, np.float32(9))
        lattice = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3).astype(np.float32) * step
        xyz = np.concatenate([lattice, -step * rng.integers(5, 60, (1, 3)).astype(np.float32)])
        squares = np.square(xyz[:, None] - xyz)
        is_near = (squares[..., 0] + squares[..., 1]) + squares[..., 2] < np.square(radius)
        (found,) = ball_query(xyz, xyz, (float(radius),), (7,), ring=False, order="first")
        assert [set(rows) for rows in found.tolist()] == [set(np.flatnonzero(row)) for row in is_near], seed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    xyz = np.zeros((4, 3), np.float32)
    broken = xyz.copy()
    broken[2, 1] = value
    for name, arguments in (("point", (broken, xyz[:1])), ("centre", (xyz, broken))):
        with pytest.raises(SimipuError, match=f"^{name} 2 of a neighbourhood query is .*; drop what is not finite"):
            ball_query(*arguments, (1.0,), (3,), ring=True, order="nearest")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("far", [-1e6, 3.0, 1e6])
def test_a_centre_that_is_no_point_is_refused(axis: int, far: float) -> None:
    centre = np.zeros((1, 3), np.float32)
    centre[0, axis] = far
    with pytest.raises(SimipuError, match=r"^centre 0 of a neighbourhood query, .*, is none of its points"):
        ball_query(np.eye(3, dtype=np.float32), centre, (1.0, 2.0), (3, 3), ring=True, order="nearest")
