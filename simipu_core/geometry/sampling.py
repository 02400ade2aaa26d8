"""Farthest point sampling."""

import numpy as np
import torch
import torch_quickfps
from numpy.typing import NDArray


def farthest_points(xyz: NDArray[np.float32], num: int, start: int = 0) -> NDArray[np.int64]:
    """Indices (num,) of points picked one by one, each the farthest from all picked before.

    The first M of the picks are what sampling M points would give, and sampling M of the picks again, from the
    first pick on, gives that same prefix; so one call serves all levels of the point encoder.

    Args:
        xyz: points (N, 3), metres.
        num: how many to pick, at most N.
        start: index of the first pick.
    """
    picked = torch_quickfps.sample_idx(torch.from_numpy(xyz)[None], num, start_idx=start)
    indices: NDArray[np.int64] = picked[0].numpy()
    return indices
