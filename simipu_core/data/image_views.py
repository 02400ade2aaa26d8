"""Image views of pre-training: resizing, and padding to a batch (docs/method.md, "Image size")."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simipu_core.config import ImageViewConfig


def resized(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """Size of an image scaled, ratio kept, to fit both bounds (docs/method.md, "Image size")."""
    scale = min(max(long_side, short_side) / max(height, width), min(long_side, short_side) / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize(
    image: NDArray[np.uint8], config: ImageViewConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Resize an image (H, W, 3) to bounds drawn from the configured ranges; also gives its factors (x, y)."""
    long_side = int(rng.integers(config.long_side[0], config.long_side[1] + 1))
    short_side = int(rng.integers(config.short_side[0], config.short_side[1] + 1))
    height, width = resized(image.shape[0], image.shape[1], long_side, short_side)
    scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8), scale


def pad(images: Sequence[NDArray[Any]], multiple: int) -> Tensor:
    """One batch of images (h, w, …) of several sizes: zeros at the bottom and right, up to a multiple in pixels."""
    height, width = (-(-max(image.shape[side] for image in images) // multiple) * multiple for side in (0, 1))
    batch = np.zeros((len(images), height, width, *images[0].shape[2:]), images[0].dtype)
    for canvas, image in zip(batch, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(batch)
