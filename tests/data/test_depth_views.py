from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate as torchvision_rotate

from simipu_core.config import DepthAugmentConfig
from simipu_core.data.colour import change_colour
from simipu_core.data.depth_views import DepthViews, rotate
from simipu_core.errors import SimipuError
from tests.samples import depth_row

OFF: dict[str, Any] = {"fixed_crop": "none", "rotation_deg": 0, "flip": 0, "crop": None, "colour": 0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_augmentation_the_frame_comes_through() -> None:
    row = depth_row(0)
    batch = DepthViews(DepthAugmentConfig(**OFF), 1.0)([row], [rng()])
    image = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0), image)
    assert batch.depth.shape == (1, 1, 48, 96)
    measured = batch.depth > 0
    assert 0.1 < measured.float().mean() < 0.3
    assert batch.sample_ids == ["frame-0"]


def test_image_and_depth_move_together() -> None:
    """Depth falls with the row and the image brightens with it; the tie survives flip, rotation and crop."""
    config = DepthAugmentConfig(**(OFF | {"rotation_deg": 2.5, "flip": 0.5, "crop": (32, 64)}))
    for seed in range(8):
        batch = DepthViews(config, 1.0)([depth_row(seed)], [rng(seed)])
        depth, image = batch.depth[0, 0], batch.images[0].float().mean(dim=0)
        kept = (depth > 0) & (image > 20)
        implied = 255 * 4 / image[kept]
        assert batch.depth.shape[-2:] == (32, 64)
        assert (implied / depth[kept]).median().item() == pytest.approx(1, abs=0.25)


def test_flip_mirrors() -> None:
    plain = DepthViews(DepthAugmentConfig(**OFF), 1.0)([depth_row(0)], [rng()])
    mirrored = DepthViews(DepthAugmentConfig(**(OFF | {"flip": 1.0})), 1.0)([depth_row(0)], [rng()])
    torch.testing.assert_close(mirrored.images, plain.images.flip(-1))
    torch.testing.assert_close(mirrored.depth, plain.depth.flip(-1))


def test_rotation_agrees_with_torchvision() -> None:
    """Positive is clockwise, about the middle of the image."""
    image = cv2.GaussianBlur(rng().integers(0, 256, (60, 80, 3), np.uint8), (9, 9), 3)
    depth = rng().uniform(1, 80, (60, 80)).astype(np.float32)
    ours, ours_depth = rotate(np.asarray(image, np.uint8), depth, 5.0)
    tensor = torch.from_numpy(np.asarray(image)).permute(2, 0, 1)
    expected = torchvision_rotate(tensor, -5.0, InterpolationMode.BILINEAR).permute(1, 2, 0).numpy()
    difference = np.abs(ours.astype(int) - expected.astype(int))[5:-5, 5:-5]
    assert difference.max() <= 3
    nearest = torchvision_rotate(torch.from_numpy(depth)[None], -5.0, InterpolationMode.NEAREST)[0].numpy()
    assert (ours_depth == nearest).mean() > 0.97


def test_colour_is_gamma_and_gains_on_the_255_scale() -> None:
    """docs/method.md, "Depth augmentation": gamma 1.1 turns 200 into 340 before clipping."""
    image = np.full((2, 2, 3), 200, np.uint8)
    fixed = {"gamma": (1.1, 1.1), "brightness": (0.5, 0.5), "channel_gain": (1.0, 1.0)}
    changed = change_colour(image, DepthAugmentConfig(**fixed), rng())
    assert (changed == round(200**1.1 * 0.5)).all()
    white = change_colour(image, DepthAugmentConfig(**(fixed | {"brightness": (1, 1)})), rng())
    assert (white == 255).all()


def test_input_scale_shrinks_the_image_alone() -> None:
    batch = DepthViews(DepthAugmentConfig(**OFF), 0.5)([depth_row(0)], [rng()])
    assert batch.images.shape == (1, 3, 24, 48)
    assert batch.depth.shape == (1, 1, 48, 96)


def test_kitti_recipe_on_a_kitti_frame() -> None:
    batch = DepthViews(DepthAugmentConfig(), 1.0)([depth_row(0, 375, 1242)], [rng()])
    assert batch.images.shape == (1, 3, 352, 704)
    assert batch.depth.shape == (1, 1, 352, 704)


def test_frames_that_do_not_fit_are_named() -> None:
    views = DepthViews(DepthAugmentConfig(**(OFF | {"crop": (64, 64)})), 1.0)
    with pytest.raises(SimipuError, match="frame-0: the frame is 48×96"):
        views([depth_row(0)], [rng()])
    with pytest.raises(SimipuError, match="frames of different sizes"):
        DepthViews(DepthAugmentConfig(**OFF), 1.0)([depth_row(0), depth_row(1, 40, 96)], [rng(), rng()])
