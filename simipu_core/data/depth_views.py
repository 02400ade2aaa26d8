"""From rows of depth shards to augmented fine-tuning batches (docs/method.md, "Depth augmentation")."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from simipu_core.config import DepthAugmentConfig
from simipu_core.data.batches import DepthBatch
from simipu_core.data.colour import change_colour
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.schema import DepthRow
from simipu_core.errors import SimipuError
from simipu_core.geometry.crops import NYU_CROP, Crop, kb_crop

Image = NDArray[np.uint8]
Depth = NDArray[np.float32]


class DepthViews:
    """Turns rows into batches: fixed crop, rotation, flip, random crop, colour, shrinking."""

    def __init__(self, config: DepthAugmentConfig, input_scale: float) -> None:
        self.config = config
        self.input_scale = input_scale

    def __call__(self, rows: Sequence[DepthRow], rngs: Sequence[np.random.Generator]) -> DepthBatch:
        """Make a batch from rows of :data:`~simipu_core.data.schema.DEPTH`, one generator a row.

        Raises:
            SimipuError: a frame is smaller than a crop, or frames of different sizes meet in a batch without one.
        """
        samples = [self._sample(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        if len({image.shape for image, _ in samples}) > 1:
            raise SimipuError("frames of different sizes cannot share a batch; set finetune.augment.crop.")
        return DepthBatch(
            images=torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2),
            depth=torch.from_numpy(np.stack([depth for _, depth in samples]))[:, None],
            sample_ids=[row["sample_id"] for row in rows],
        )

    def _sample(self, row: DepthRow, rng: np.random.Generator) -> tuple[Image, Depth]:
        config = self.config
        image = decode_image(row["image"])
        depth = decode_depth(row["depth"], row["depth_scale"])
        if config.fixed_crop != "none":
            crop = kb_crop(*depth.shape) if config.fixed_crop == "kb" else NYU_CROP
            image, depth = crop.cut(image), crop.cut(depth)
        if rng.random() < 0.5 and config.rotation_deg > 0:
            image, depth = rotate(image, depth, rng.uniform(-config.rotation_deg, config.rotation_deg))
        if rng.random() < config.flip:
            image, depth = np.asarray(cv2.flip(image, 1), np.uint8), np.asarray(cv2.flip(depth, 1), np.float32)
        if config.crop is not None:
            crop = _random_crop(depth.shape, config.crop, rng, row["sample_id"])
            image, depth = crop.cut(image), crop.cut(depth)
        image = shrink(image, self.input_scale)
        if rng.random() < config.colour:
            image = change_colour(image, config, rng)
        return image, np.ascontiguousarray(depth)


def rotate(image: Image, depth: Depth, degrees: float) -> tuple[Image, Depth]:
    """Rotate clockwise about the centre, size kept, zeros outside; image bilinear, depth nearest."""
    height, width = depth.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)
    return (
        np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8),
        np.asarray(cv2.warpAffine(depth, turn, (width, height), flags=cv2.INTER_NEAREST), np.float32),
    )


def shrink(image: Image, scale: float) -> Image:
    """Shrink an image by area averaging."""
    if scale == 1:
        return np.ascontiguousarray(image)
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), np.uint8)


def _random_crop(shape: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator, sample_id: str) -> Crop:
    if shape[0] < size[0] or shape[1] < size[1]:
        raise SimipuError(
            f"{sample_id}: the frame is {shape[0]}×{shape[1]} but finetune.augment.crop is {size[0]}×{size[1]}; "
            "lower it or set it to null."
        )
    top = int(rng.integers(shape[0] - size[0] + 1))
    left = int(rng.integers(shape[1] - size[1] + 1))
    return Crop(top, top + size[0], left, left + size[1])
