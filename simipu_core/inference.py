"""Depth of one image, as evaluation, serving and prediction all compute it."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from simipu_core.data.depth_views import shrink
from simipu_core.geometry.crops import Crop, kb_crop
from simipu_core.models.depth_net import DepthNet, DepthNetSpec


def answered_region(spec: DepthNetSpec, height: int, width: int) -> Crop:
    """The part of a frame that a net sees, and so answers for.

    Raises:
        SimipuError: the frame is smaller than the net's crop.
    """
    return kb_crop(height, width) if spec.fixed_crop == "kb" else Crop(0, height, 0, width)


@torch.inference_mode()
def predict_depth(net: DepthNet, image: NDArray[np.uint8], *, flip: bool = True) -> NDArray[np.float32]:
    """Predict the depth of an image (docs/method.md, "Prediction").

    The prediction is clamped at the net's resolution, then resized; with `flip`, it is the mean of the depths of
    the image and of its mirror image.

    Args:
        net: in evaluation mode.
        image: (H, W, 3) RGB.
        flip: average with the mirrored image.

    Returns:
        (H, W) metres; NaN outside the part of the frame that the net is shown.
    """
    height, width = image.shape[:2]
    crop = answered_region(net.spec, height, width)
    batch = torch.from_numpy(shrink(crop.cut(image), net.spec.input_scale)).permute(2, 0, 1)[None]
    views = torch.cat([batch, batch.flip(-1)]) if flip else batch
    depth = net(views.to(next(net.parameters()).device)).clamp(net.spec.min_depth, net.spec.max_depth)
    depth = F.interpolate(depth, size=crop.size, mode="bilinear", align_corners=True)[:, 0]
    if flip:
        depth = (depth[:1] + depth[1:].flip(-1)) / 2
    frame = np.full((height, width), np.nan, np.float32)
    crop.cut(frame)[:] = depth[0].cpu().numpy()
    return frame
