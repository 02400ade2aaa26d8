"""Sparse depth of a scan in an image view: the targets of regression on LiDAR depth (docs/method.md, "LiDAR depth")."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from simipu_core.config import LidarDepthConfig, PretrainConfig
from simipu_core.data.batches import ScanDepthBatch
from simipu_core.data.colour import change_colour
from simipu_core.data.image_views import pad, resize
from simipu_core.data.images import decode_image
from simipu_core.data.schema import PairRow
from simipu_core.geometry.cameras import project


class ScanDepthViews:
    """Turns rows of pair shards into images with the depths of their scans: resizing, mirroring, colours.

    A pure function of the rows and their random generators.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def __call__(self, rows: Sequence[PairRow], rngs: Sequence[np.random.Generator]) -> ScanDepthBatch:
        """Make a batch from rows of :data:`~simipu_core.data.schema.PAIRS`, one generator a row."""
        images, depths = zip(*(self._sample(row, rng) for row, rng in zip(rows, rngs, strict=True)), strict=True)
        multiple = self.config.image.pad_multiple
        return ScanDepthBatch(
            images=pad(images, multiple).permute(0, 3, 1, 2),
            image_sizes=torch.tensor([image.shape[:2] for image in images]),
            depth=pad(depths, multiple)[:, None],
            sample_ids=[row["sample_id"] for row in rows],
        )

    def _sample(self, row: PairRow, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        config = self.config
        image, _ = resize(decode_image(row["image"]), config.image, rng)
        depth = scan_depth(row, image.shape[:2], config.lidar_depth)
        if rng.random() < config.points.flip:
            image, depth = np.asarray(cv2.flip(image, 1), np.uint8), np.asarray(cv2.flip(depth, 1), np.float32)
        if rng.random() < config.image.colour:
            image = change_colour(image, config.image, rng)
        return image, depth


def projected(
    row: PairRow,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The scan of a pair row in its image.

    Returns:
        points (N, 4) in the sensor frame with reflectance; their pixels (N, 2) and depths (N,), metres; and which of
        them the camera sees (N,).
    """
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    uv, depth = project(cloud[:, :3], row["lidar_to_camera"], row["intrinsics"])
    seen = np.unpackbits(np.frombuffer(row["visible"], np.uint8), count=len(cloud)).view(np.bool_)
    return cloud, uv, depth, seen


def scan_depth(row: PairRow, size: tuple[int, ...], config: LidarDepthConfig) -> NDArray[np.float32]:
    """The depths of a scan's visible points in the resized image of their pair.

    An image of another size shows the same things as a camera of another focal length does. Depths are those at which
    a camera with `image_scale` times the row's focal length sees things as large: Metric3D's transformation of labels
    (Yin et al. 2023, equation 2). Of several points in a pixel the nearest counts.

    Args:
        row: of pair shards.
        size: height and width of the resized image, pixels.
        config: the largest depth, and the size of pictures whose depths are the scan's own.

    Returns:
        (height, width) metres, 0 where there is none.
    """
    height, width = size
    _, uv, depth, seen = projected(row)
    factors = np.array([width / row["width"], height / row["height"]])
    pixels = np.rint((uv[seen] + 0.5) * factors - 0.5).astype(np.int64)
    metres = depth[seen] * config.image_scale / np.sqrt(factors.prod())
    fits = (
        (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1) & (metres > 0) & (metres < config.max_depth)
    )
    pixels, metres = pixels[fits], metres[fits]
    far_first = np.argsort(-metres, kind="stable")  # the last one written stays
    result = np.zeros((height, width), np.float32)
    result[pixels[far_first, 1], pixels[far_first, 0]] = metres[far_first]
    return result
