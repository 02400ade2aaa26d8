import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.data.formats.scans import parse_points
from simipu_core.data.pairing import depth_map, facing
from simipu_core.errors import SimipuError
from simipu_core.stages.pair import median_depth
from simipu_core.synthetic.calibration import rotation


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 80))
def test_depth_map_puts_the_nearest_point_on_the_nearest_pixel(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    uv, depth = rng.uniform(0, [8, 6], (count, 2)), rng.uniform(1, 50, count)
    expected = np.zeros((6, 8))
    for (u, v), metres in sorted(zip(uv.tolist(), depth.tolist(), strict=True), key=lambda each: -each[1]):
        if round(u) < 8 and round(v) < 6:
            expected[round(v), round(u)] = metres
    np.testing.assert_array_equal(depth_map(uv, depth, 6, 8), expected)


@given(near=st.lists(st.integers(1, 65535), min_size=1, max_size=20), far=st.lists(st.integers(1, 65535), max_size=20))
def test_median_depth_equals_that_of_all_pixels(near: list[int], far: list[int]) -> None:
    histograms = {
        256.0: np.bincount([0, 0, 0, *near], minlength=1 << 16),
        1000.0: np.bincount([0, *far], minlength=1 << 16),
    }
    expected = np.median([value / 256 for value in near] + [value / 1000 for value in far])
    assert median_depth(histograms) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (bytes(40), "truncated .40 bytes"),
    ],
)
def test_a_damaged_scan_is_found_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SimipuError, match=reason):
        parse_points(data)


def test_a_sound_scan_is_counted() -> None:
    assert parse_points(bytes(48)).shape == (3, 4)


@pytest.mark.parametrize("degrees", [0.0, 20.0, 90.0, 180.0, -110.0])
def test_scans_face_the_way_the_camera_looks(degrees: float) -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (20, 4)).astype(np.float32)
    ahead = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = rotation(0, 0, np.deg2rad(degrees))
    turned, transform = facing(points, (ahead @ turn).ravel().tolist())
    made = np.reshape(transform, (4, 4))
    seen, before = points[:, :3] @ (ahead @ turn)[:3, :3].T, turned[:, :3] @ made[:3, :3].T
    np.testing.assert_allclose(seen, before, atol=1e-4)
    np.testing.assert_array_equal(turned[:, 2:], points[:, 2:])
    if abs(degrees) > 30:
        np.testing.assert_allclose(made, ahead, atol=1e-12)  # the camera looks along x
    else:
        assert turned is points
