"""Images with LiDAR depths at pixels, without augmentation: the data of the linear probe."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from simipu_core.config import ImageViewConfig
from simipu_core.data.image_views import resized
from simipu_core.data.images import decode_image
from simipu_core.data.scan_depth import projected
from simipu_core.data.schema import PairRow

_POINTS = 256  # of each scan


@dataclass(frozen=True)
class ProbeSample:
    """One image with depths at pixels."""

    image: Tensor
    """(1, 3, H, W) uint8 RGB."""
    pixels: Tensor
    """(1, P, 2) float32 u, v."""
    depth: Tensor
    """(P,) float32 metres along the optical axis."""


def probe_samples(rows: Sequence[PairRow], config: ImageViewConfig) -> list[ProbeSample]:
    """Read rows of :data:`~simipu_core.data.schema.PAIRS`; the same points each time, seen ones only.

    Images are resized to the middle of the pre-training range, and cropped at the bottom and right to multiples of
    the padding unit.
    """
    return [_sample(row, config, np.random.default_rng(number)) for number, row in enumerate(rows)]


def _sample(row: PairRow, config: ImageViewConfig, rng: np.random.Generator) -> ProbeSample:
    _, uv, depth, seen = projected(row)
    kept = np.flatnonzero(seen)
    height, width = row["height"], row["width"]
    to_height, to_width = resized(height, width, sum(config.long_side) // 2, sum(config.short_side) // 2)
    image = cv2.resize(decode_image(row["image"]), (to_width, to_height), interpolation=cv2.INTER_LINEAR)
    unit = config.pad_multiple
    image = image[: max(to_height // unit, 1) * unit, : max(to_width // unit, 1) * unit]
    pixels = (uv[kept] + 0.5) * [to_width / width, to_height / height] - 0.5
    inside = (pixels[:, 0] <= image.shape[1] - 1) & (pixels[:, 1] <= image.shape[0] - 1)
    chosen = rng.permutation(np.flatnonzero(inside))[:_POINTS]
    return ProbeSample(
        image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None],
        pixels=torch.from_numpy(pixels[chosen].astype(np.float32))[None],
        depth=torch.from_numpy(depth[kept][chosen].astype(np.float32)),
    )
