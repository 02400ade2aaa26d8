"""Pictures of predictions."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.images import encode_png

_MIN_WIDTH = 960


def save_panel(
    file: Path,
    image: NDArray[np.uint8],
    truth: NDArray[np.float32],
    prediction: NDArray[np.float32],
    max_depth: float,
) -> None:
    """Write image, measured depth over the image, and prediction, one below the other, as one PNG.

    Args:
        file: PNG to write.
        image: (H, W, 3) RGB.
        truth: (H, W) metres, 0 where nothing was measured.
        prediction: (H, W) metres, NaN where nothing was predicted.
        max_depth: metres shown in the last colour.
    """
    parts = [image, overlay(image, truth, max_depth), colour(prediction, max_depth)]
    zoom = max(1, round(_MIN_WIDTH / image.shape[1]))
    panel = np.concatenate([np.repeat(np.repeat(part, zoom, 0), zoom, 1) for part in parts])
    file.write_bytes(encode_png(panel))


def overlay(image: NDArray[np.uint8], depth: NDArray[np.floating], max_depth: float) -> NDArray[np.uint8]:
    """Sparse depth (H, W), metres, 0 where there is none, as dots over a dimmed image (H, W, 3) RGB."""
    dots = max(1, round(image.shape[1] / 600))
    measured = cv2.dilate(
        np.where(depth > 0, 1 / np.maximum(depth, 1e-3), 0).astype(np.float32), np.ones((dots + 1,) * 2)
    )
    near = (1 / np.maximum(measured, 1e-6)).astype(np.float32)
    return np.where(measured[..., None] > 0, colour(near, max_depth), image // 2)


def colour(depth: NDArray[np.float32], max_depth: float) -> NDArray[np.uint8]:
    """Depth (H, W), metres → RGB (H, W, 3), near is bright; logarithmic from 1 m; NaN is black."""
    known = np.nan_to_num(depth, nan=max_depth)
    level = 1 - np.log(np.clip(known, 1, max_depth)) / np.log(max_depth)
    picture = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    picture = np.where(np.isnan(depth)[..., None], 0, picture)
    return np.ascontiguousarray(picture, dtype=np.uint8)
