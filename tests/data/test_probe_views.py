import cv2
import numpy as np
import torch

from simipu_core.config import ImageViewConfig
from simipu_core.data.probe_views import probe_samples
from simipu_core.geometry.cameras import project
from tests.samples import HEIGHT, INTRINSICS, LIDAR_TO_CAMERA, WIDTH, pair_row

CONFIG = ImageViewConfig(long_side=(150, 234), short_side=(70, 122), pad_multiple=32)  # middle: twice the size


def test_depths_are_those_of_points_at_the_pixels() -> None:
    row = pair_row(0)
    sample = probe_samples([row], CONFIG)[0]
    assert sample.image.shape == (1, 3, 96, 192)
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    uv, depth = project(cloud[:, :3], LIDAR_TO_CAMERA, INTRINSICS)
    place = (uv + 0.5) * 2 - 0.5
    for pixel, value in zip(sample.pixels[0].numpy(), sample.depth.numpy(), strict=True):
        nearest = np.linalg.norm(place - pixel, axis=1).argmin()
        np.testing.assert_allclose(depth[nearest], value, rtol=1e-5)


def test_the_same_each_time_and_resized_as_the_frame() -> None:
    row = pair_row(3)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, WIDTH // 2 :] = 255
    row["image"] = bytes(cv2.imencode(".png", image)[1])
    one, two = (probe_samples([pair_row(1), row], CONFIG)[1] for _ in range(2))
    torch.testing.assert_close(one.pixels, two.pixels)
    assert one.image[..., :94].max() < 128 < one.image[..., 98:].min()
