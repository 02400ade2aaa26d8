import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.config import PointViewConfig
from simipu_core.geometry.rigid import PointAugmentation, draw_augmentation

POINT = np.array([[10, 5, -1.5]], np.float32)


def test_published_vector() -> None:
    """docs/method.md, "Augmentation"."""
    augmentation = PointAugmentation(centre=(35.2, 0, -1), angle=0.5, scale=1.1, flip=True)
    moved = augmentation.apply(POINT)
    np.testing.assert_allclose(moved, [[17.03025, -18.11638, -1.65]], atol=1e-5)
    np.testing.assert_allclose(augmentation.invert(moved), POINT, atol=1e-5)


@given(st.floats(-1.6, 1.6), st.floats(0.75, 1.25), st.booleans(), st.integers(0, 2**31))
def test_inverse_undoes_it_and_distances_only_scale(angle: float, scale: float, flip: bool, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-40, 70, (20, 3)).astype(np.float32)
    augmentation = PointAugmentation((35.2, 0, -1), angle, scale, flip)
    moved = augmentation.apply(points)
    np.testing.assert_allclose(augmentation.invert(moved), points, atol=1e-3)
    distance = np.linalg.norm(points[0] - points[1])
    np.testing.assert_allclose(np.linalg.norm(moved[0] - moved[1]), scale * distance, rtol=1e-3)


def test_drawn_values_stay_in_the_configured_ranges() -> None:
    config = PointViewConfig(rotation_deg=30, scale=(0.9, 1.1), flip=0.5)
    drawn = [draw_augmentation(config, np.random.default_rng(seed)) for seed in range(200)]
    angles = np.rad2deg([each.angle for each in drawn])
    assert 25 < np.abs(angles).max() <= 30
    assert {each.flip for each in drawn} == {True, False}
    assert all(0.9 <= each.scale <= 1.1 for each in drawn)
    np.testing.assert_allclose(drawn[0].centre, (35.2, 0, -1))
