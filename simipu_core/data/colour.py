"""Colour augmentation."""

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.config import ColourConfig

Image = NDArray[np.uint8]


def change_colour(image: Image, config: ColourConfig, rng: np.random.Generator) -> Image:
    """Gamma and gains on 0–255 values, as one table per channel."""
    values = np.arange(256.0) ** rng.uniform(*config.gamma) * rng.uniform(*config.brightness)
    tables = values[:, None] * rng.uniform(*config.channel_gain, size=3)
    return np.asarray(cv2.LUT(image, np.clip(tables, 0, 255).round().astype(np.uint8)[None]), np.uint8)
