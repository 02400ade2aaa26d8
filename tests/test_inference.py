"""How frames are fitted to what a net was trained on."""

import math

import numpy as np
import pytest

from simipu_core.config import InputConfig
from simipu_core.geometry.crops import Crop
from simipu_core.inference import evaluation_view, fitted_view, fitting_scale, focal_factor
from simipu_core.models.depth_net import DepthNetSpec, TrainingCameras

SPEC = DepthNetSpec(
    encoder_name="resnet18",
    decoder_channels=(8, 8, 8, 8),
    input=InputConfig(),
    fixed_crop="none",
    input_scale=0.5,
    min_depth=1e-3,
    max_depth=80.0,
)
CAMERAS = TrainingCameras(
    size=(100, 200), fx=150, fy=170, focal_range=(150, 300), side_range=(math.sqrt(100 * 200), math.sqrt(200 * 400))
)
MIXED = SPEC.model_copy(update={"cameras": CAMERAS})
KITTI = SPEC.model_copy(update={"fixed_crop": "kb", "input_scale": 1.0})


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("size", "scale"), [((100, 200), 1), ((150, 300), 1), ((50, 100), 2), ((800, 400), 0.5)])
def test_frames_outside_the_trainings_sizes_are_scaled_to_the_nearest(size: tuple[int, int], scale: float) -> None:
    assert fitting_scale(MIXED, *size) == pytest.approx(scale)
    view = fitted_view(MIXED, picture(*size))
    assert view.image.shape == (*(round(side * scale / 2) for side in size), 3)
    assert (view.answered, view.size) == (Crop(0, size[0], 0, size[1]), size)


@pytest.mark.parametrize("spec", [SPEC, MIXED, KITTI])
def test_frames_like_the_trainings_are_shown_as_in_evaluation(spec: DepthNetSpec) -> None:
    for size in ((375, 1242), (370, 1224)) if spec is KITTI else ((100, 200), (120, 170)):
        image = picture(*size)
        expected, made = evaluation_view(spec, image), fitted_view(spec, image)
        np.testing.assert_array_equal(made.image, expected.image)
        assert (made.answered, made.scale) == (expected.answered, 1.0)


def test_a_net_for_the_benchmark_crop_answers_for_all_of_other_pictures() -> None:
    """Those of KITTI's shape, larger or smaller, are cut as KITTI's are."""
    view = fitted_view(KITTI, picture(750, 2484))
    assert view.image.shape == (352, 1216, 3)
    top, left = (750 - 2 * 352) / 750, (2484 - 2 * 1216) / 2 / 2484
    assert view.answered == pytest.approx((750 * top, 750, 2484 * left, 2484 * (1 - left)), abs=2)
    for size in ((720, 1280), (1280, 720), (100, 100)):
        view = fitted_view(KITTI, picture(*size))
        assert view.answered == Crop(0, size[0], 0, size[1])
        assert view.image.shape[0] * view.image.shape[1] == pytest.approx(376 * 1242, rel=0.05)


def test_old_weights_shrink_huge_frames_only() -> None:
    assert fitting_scale(SPEC, 1280, 1920) == 1
    assert fitting_scale(SPEC, 3000, 4096) == 0.5


def test_depths_are_scaled_beyond_the_trainings_focal_lengths() -> None:
    assert focal_factor(MIXED, 150, 170, 1.0) == 1
    assert focal_factor(MIXED, 299, 299, 1.0) == 1
    assert focal_factor(MIXED, 500, 700, 1.0) == pytest.approx(2)
    assert focal_factor(MIXED, 75, 75, 1.0) == pytest.approx(0.5)
    assert focal_factor(MIXED, 1200, 1200, 0.25) == pytest.approx(1)
    assert focal_factor(SPEC, 5, 5, 1.0) == 1
