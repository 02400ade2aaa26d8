import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.data.formats.scans import parse_points
from simipu_core.data.pairing import depth_map
from simipu_core.errors import SimipuError
from simipu_core.stages.pair import median_depth


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
