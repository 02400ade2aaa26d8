from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.config import LidarDepthConfig, PointViewConfig
from simipu_core.data.scan_depth import ScanDepthViews, scan_depth
from simipu_core.data.schema import PairRow
from simipu_core.data.views import PairViews
from tests.samples import HEIGHT, INTRINSICS, LIDAR_TO_CAMERA, WIDTH, pair_row, tiny_pretrain, visible_column

NATIVE = {"long_side": (WIDTH, WIDTH), "short_side": (HEIGHT, HEIGHT)}


def slow(row: PairRow, height: int, width: int, config: LidarDepthConfig) -> NDArray[np.float64]:
    """Point by point."""
    result = np.zeros((height, width))
    seen = np.unpackbits(np.frombuffer(row["visible"], np.uint8))
    right, down = width / WIDTH, height / HEIGHT
    for number, (x, y, z, _) in enumerate(np.frombuffer(row["points"], np.float32).reshape(-1, 4)):
        if not seen[number]:
            continue
        camera = LIDAR_TO_CAMERA @ (x, y, z, 1)
        u, v, w = INTRINSICS @ camera[:3]
        column, line = round((u / w + 0.5) * right - 0.5), round((v / w + 0.5) * down - 0.5)
        metres = w * config.image_scale / (right * down) ** 0.5
        if 0 <= column < width and 0 <= line < height and metres < config.max_depth:
            result[line, column] = min(metres, result[line, column] or metres)
    return result


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (24, 48), (31, 70), (96, 192)])
@pytest.mark.parametrize("settings", [{}, {"image_scale": 0.5}, {"max_depth": 15.0}])
def test_depths_are_those_of_a_slow_projection(size: tuple[int, int], settings: dict[str, Any]) -> None:
    config = LidarDepthConfig(**settings)
    row = pair_row(3)
    found, expected = scan_depth(row, size, config), slow(row, *size, config)
    assert (found > 0).sum() > 50
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_wall_enlarged_twice_seems_half_as_far() -> None:
    """What Metric3D's equation says: the picture cannot be told from one of a nearer wall."""
    columns, lines = np.meshgrid(np.arange(4, WIDTH - 4, 6.0), np.arange(14, HEIGHT - 4, 6.0))
    camera = np.stack([(columns - 47.5) / 3, (lines - 20) / 3, np.full_like(columns, 20.0)], axis=-1).reshape(-1, 3)
    xyz = (camera - LIDAR_TO_CAMERA[:3, 3]) @ LIDAR_TO_CAMERA[:3, :3]
    points = np.column_stack([xyz, np.ones(len(xyz))]).astype("<f4")
    row: PairRow = {**pair_row(0), "points": points.tobytes(), "visible": visible_column(points)}
    for factor in (0.5, 1, 2):
        found = scan_depth(row, (int(HEIGHT * factor), int(WIDTH * factor)), LidarDepthConfig())
        np.testing.assert_allclose(found[found > 0], 20 / factor, rtol=1e-5)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_depth_are_mirrored_together(flip: float) -> None:
    """Bright where something was measured, in the views of both objectives."""
    row = pair_row(1)
    mask = (scan_depth(row, (HEIGHT, WIDTH), LidarDepthConfig()) > 0).astype(np.uint8) * 255
    row["image"] = bytes(cv2.imencode(".png", np.repeat(mask[..., None], 3, axis=2))[1])
    config = tiny_pretrain(objective="both", points=PointViewConfig(num_points=256, flip=flip))
    config = config.model_copy(update={"image": config.image.model_copy(update=NATIVE)})
    for views in (PairViews(config), ScanDepthViews(config)):
        batch = views([row], [np.random.default_rng(0)])
        assert batch.depth is not None
        measured = batch.depth[0, 0] > 0
        assert measured.sum() > 50
        assert (batch.images[0, 0] > 127).equal(measured)
        seen = measured[:HEIGHT, :WIDTH].numpy()
        np.testing.assert_array_equal(seen, np.fliplr(mask > 0) if flip else mask > 0)


def test_contrast_alone_makes_no_depth_and_the_same_batches() -> None:
    rows = [pair_row(0), pair_row(1)]
    alone, beside = (
        PairViews(tiny_pretrain(objective=objective))(rows, [np.random.default_rng(i) for i in range(2)])
        for objective in ("contrastive", "both")
    )
    assert alone.depth is None
    assert beside.depth is not None
    assert replace(beside, depth=None).images.equal(alone.images)
    assert beside.pixels.equal(alone.pixels)
    assert beside.original.xyz.equal(alone.original.xyz)
