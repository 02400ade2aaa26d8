"""Named protocols: which pixels of a frame count."""

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import Protocol
from simipu_core.geometry.crops import EIGEN_NYU, Crop, garg_crop, kb_crop


def region(protocol: Protocol, height: int, width: int) -> Crop:
    """Rows and columns of a full frame that a protocol scores (docs/method.md, "Protocols").

    Raises:
        SimipuError: the frame is smaller than the protocol's crop.
    """
    if protocol == "garg_kb_crop":
        outer = kb_crop(height, width)
        return garg_crop(*outer.size).inside(outer)
    if protocol == "garg_full_frame":
        return garg_crop(height, width)
    if protocol == "eigen_nyu":
        return EIGEN_NYU
    return Crop(0, height, 0, width)


def valid_pixels(protocol: Protocol, truth: NDArray[np.float32], depth_range: tuple[float, float]) -> NDArray[np.bool_]:
    """Mask (H, W) of the scored pixels: inside the protocol's region and strictly inside the depth range.

    Args:
        protocol: name.
        truth: (H, W) metres, 0 where nothing was measured.
        depth_range: metres, exclusive.
    """
    mask = np.zeros(truth.shape, bool)
    scored = region(protocol, *truth.shape)
    scored.cut(mask)[:] = True
    return mask & (truth > depth_range[0]) & (truth < depth_range[1])
