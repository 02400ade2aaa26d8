"""SigLoss: the scale-invariant logarithmic depth loss."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_EPSILON = 1e-3


def sig_loss(prediction: Tensor, depth: Tensor, weight: float = 0.15) -> Tensor:
    """sqrt(Var(g) + weight · mean(g)²) over all measured pixels of the batch (docs/method.md, "SigLoss").

    g = ln(prediction + 1e-3) - ln(depth + 1e-3), Var unbiased; Eigen et al. 2014 in the form of AdaBins.

    Args:
        prediction: metres, positive, any shape; computed with in float32 at least.
        depth: metres, same shape; 0 where nothing was measured.
        weight: weight of the squared mean.

    Returns:
        scalar; zero (with a gradient of zero) where fewer than two pixels were measured.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        measured = depth > 0
        if measured.sum() < 2:
            return prediction.sum() * 0.0
        g = torch.log(prediction[measured] + _EPSILON) - torch.log(depth[measured] + _EPSILON)
        return torch.sqrt(g.var() + weight * g.mean() ** 2)


def at_size_of(depth: Tensor, prediction: Tensor) -> Tensor:
    """A prediction (B, 1, h, w) at the size of its label (B, 1, H, W): float32, bilinear, corners aligned."""
    return F.interpolate(prediction.float(), size=depth.shape[-2:], mode="bilinear", align_corners=True)
