"""Rigid motions against the textbook formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.geometry.poses import inverse, pose, rotation_error

numbers = st.floats(-1, 1)


def test_a_quarter_turn_to_the_left_and_a_shift() -> None:
    half = np.sqrt(0.5)
    moved = pose(np.array([10.0, 20.0, 30.0]), np.array([0, 0, half, half])) @ [1, 0, 0, 1]
    np.testing.assert_allclose(moved, [10, 21, 30, 1], atol=1e-12)


@given(st.tuples(numbers, numbers, numbers), st.tuples(numbers, numbers, numbers, st.floats(0.1, 1)))
def test_any_quaternion_makes_a_rotation_whose_inverse_undoes_it(
    shift: tuple[float, ...], quaternion: tuple[float, ...]
) -> None:
    motion = pose(np.array(shift), np.array(quaternion))
    x, y, z, w = np.array(quaternion) / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    np.testing.assert_allclose(motion[:3, :3], np.eye(3) + 2 * w * cross + 2 * cross @ cross, atol=1e-12)
    np.testing.assert_allclose(inverse(motion) @ motion, np.eye(4), atol=1e-12)
    assert rotation_error(motion) < 1e-12
    assert np.linalg.det(motion[:3, :3]) > 0


def test_the_error_of_a_stretched_rotation_is_the_stretch() -> None:
    assert rotation_error(np.diag([1.0, 1.0, 1.1, 1.0])) == pytest.approx(0.21)


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 1.0, np.inf, 1.0]), np.full((4, 4), 1e300)],
    ids=["a 3×3", "no numbers", "infinite", "too large to square"],
)
def test_what_is_no_motion_passes_no_limit(matrix: np.ndarray) -> None:
    assert rotation_error(matrix) == np.inf
