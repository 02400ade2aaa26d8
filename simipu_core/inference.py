"""Depth of images, as evaluation, prediction, serving and exported files all compute it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from simipu_core.data.depth_views import shrink
from simipu_core.errors import SimipuError
from simipu_core.geometry.crops import KB_SIZE, Crop, kb_crop
from simipu_core.models.depth_net import DepthNet, DepthNetSpec

SMALLEST_SIDE = 32
"""Pixels; the stride of a net's coarsest features."""
_KITTI_SIDES = (math.sqrt(370 * 1224), math.sqrt(376 * 1242))
"""Of the smallest and the largest frames of KITTI."""
_LONGEST_SIDE = 2048
"""Pixels of a frame for a net that does not tell which it was trained on."""


def answered_region(spec: DepthNetSpec, height: int, width: int) -> Crop:
    """The part of a frame that a net sees, and so answers for.

    Raises:
        SimipuError: the frame is smaller than the net's crop.
    """
    return kb_crop(height, width) if spec.fixed_crop == "kb" else Crop(0, height, 0, width)


@dataclass(frozen=True)
class View:
    """A frame as a net is shown it."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    answered: Crop
    """The part of the frame that it shows."""
    size: tuple[int, int]
    """Height and width of the frame."""
    scale: float = 1.0
    """Factor from the frame's pixels to those of a training frame."""


def evaluation_view(spec: DepthNetSpec, image: NDArray[np.uint8]) -> View:
    """What a net is shown of a frame in training and evaluation: its crop, shrunk by its `input_scale`.

    Args:
        spec: what the net was trained for.
        image: (H, W, 3) RGB.

    Raises:
        SimipuError: the frame is smaller than the net's crop.
    """
    crop = answered_region(spec, *image.shape[:2])
    return View(shrink(crop.cut(image), spec.input_scale), crop, _size(image))


def fitted_view(spec: DepthNetSpec, image: NDArray[np.uint8]) -> View:
    """The same for a frame of any size (docs/method.md, "Frames of other sizes").

    Args:
        spec: what the net was trained for.
        image: (H, W, 3) RGB.

    Raises:
        SimipuError: a side is shorter than `SMALLEST_SIDE`.
    """
    height, width = _size(image)
    if min(height, width) < SMALLEST_SIDE:
        raise SimipuError(
            f"is {height}×{width} pixels, too small to see depth in; give a picture of at least "
            f"{SMALLEST_SIDE}×{SMALLEST_SIDE}"
        )
    scale = fitting_scale(spec, height, width)
    scaled = _resized(image, scale)
    rows, columns = _size(scaled)
    holds_crop = rows >= KB_SIZE[0] and columns >= KB_SIZE[1]
    crop = answered_region(spec, rows, columns) if holds_crop else Crop(0, rows, 0, columns)
    answered = Crop(
        round(crop.top * height / rows),
        round(crop.bottom * height / rows),
        round(crop.left * width / columns),
        round(crop.right * width / columns),
    )
    return View(shrink(crop.cut(scaled), spec.input_scale), answered, (height, width), scale)


def fitting_scale(spec: DepthNetSpec, height: int, width: int) -> float:
    """Factor that gives a frame as many pixels as the net's training frames had; 1 for a frame like these."""
    if spec.cameras:
        smallest, largest = spec.cameras.side_range
    elif spec.fixed_crop == "kb":
        smallest, largest = _KITTI_SIDES
    else:
        return min(1.0, _LONGEST_SIDE / max(height, width))
    side = math.sqrt(height * width)
    return min(max(side, smallest), largest) / side


def focal_factor(spec: DepthNetSpec, fx: float, fy: float, scale: float) -> float:
    """Factor on a net's depths for another focal length (docs/method.md, "Other focal lengths").

    Args:
        spec: what the net was trained for.
        fx: focal length in pixels of the frame, of columns.
        fy: of rows.
        scale: that of the frame's view.
    """
    if spec.cameras is None:
        return 1.0
    focal = (fx + fy) / 2 * scale
    smallest, largest = spec.cameras.focal_range
    return focal / min(max(focal, smallest), largest)


def full_depth(spec: DepthNetSpec, depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a net's answer to its bounds, then to a size (docs/method.md, "Prediction").

    Args:
        spec: of the net.
        depth: (B, 1, h, w) metres, at the net's resolution.
        size: height H and width W.

    Returns:
        (B, H, W) metres.
    """
    bounded = depth.clamp(spec.min_depth, spec.max_depth)
    return F.interpolate(bounded, size=size, mode="bilinear", align_corners=True)[:, 0]


@torch.inference_mode()
def predict_views(
    net: DepthNet, views: Sequence[View], *, flip: bool = True, precision: Literal["fp32", "bf16"] = "fp32"
) -> list[NDArray[np.float32]]:
    """Predict the depth of several views at once (docs/method.md, "Prediction").

    With `flip`, the prediction is the mean of the depths of the view and of its mirror image.

    Args:
        net: in evaluation mode.
        views: whose images have one size, and the parts of frames that they show, too.
        flip: average with the mirrored images.
        precision: of the network.

    Returns:
        (H, W) metres of each; NaN outside the part of the frame that the net is shown.
    """
    device = next(net.parameters()).device
    batch = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
    shown = torch.cat([batch, batch.flip(-1)]) if flip else batch
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        depth = net(shown.to(device))
    depth = full_depth(net.spec, depth, views[0].answered.size)
    if flip:
        depth = (depth[: len(views)] + depth[len(views) :].flip(-1)) / 2
    frames = []
    for view, answer in zip(views, depth.cpu().numpy(), strict=True):
        frame = np.full(view.size, np.nan, np.float32)
        view.answered.cut(frame)[:] = answer
        frames.append(frame)
    return frames


def predict_depth(net: DepthNet, image: NDArray[np.uint8], *, flip: bool = True) -> NDArray[np.float32]:
    """Predict the depth of an image that is like those of the net's training.

    Args:
        net: in evaluation mode.
        image: (H, W, 3) RGB.
        flip: average with the mirrored image.

    Returns:
        (H, W) metres; NaN outside the part of the frame that the net is shown.

    Raises:
        SimipuError: the frame is smaller than the net's crop.
    """
    return predict_views(net, [evaluation_view(net.spec, image)], flip=flip)[0]


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """An image (H, W, 3), its ratio kept."""
    if scale <= 1:
        return shrink(image, scale)
    height, width = (round(side * scale) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
