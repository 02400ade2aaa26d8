"""Sampling by learnt features (3DSSD's feature-FPS): geometry that must run inside the step, on its device.

Picks start at row 0, and ties go to the first row. The published CUDA kernel breaks ties by its own scan order, so
that later picks can differ among coinciding points (docs/method.md, "Centres").
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

_CHUNK = 512  # centres whose distances to all points are held at once


def feature_halves(xyz: Tensor, features: Tensor, num: int, *, split: bool) -> Tensor:
    """Half of the centres farthest in position and features, then half farthest in position; both may share points.

    Args:
        xyz: (B, N, 3) metres.
        features: (B, N, C) learnt.
        num: centres in all, even.
        split: take the feature half from rows 0 … num/2-1 and the other from the rows after them (the inherited
            split of the published last level, docs/method.md, "Centres"); otherwise both from all rows.

    Returns:
        (B, num) int64 rows.
    """
    half = num // 2
    border = half if split else xyz.shape[1]
    near = torch.cat([xyz, features], dim=-1)[:, :border].float()
    squares = near.square().sum(dim=-1)
    distances = squares[:, :, None] + squares[:, None] - 2 * near @ near.transpose(1, 2)
    samples = torch.arange(len(xyz), device=xyz.device)
    by_feature = _farthest(lambda rows: distances[samples, rows], border, half, samples)
    rest = xyz[:, border if split else 0 :]
    by_position = _farthest(
        lambda rows: (rest - rest[samples, rows][:, None]).square().sum(dim=-1), rest.shape[1], half, samples
    )
    return torch.cat([by_feature, by_position + (border if split else 0)], dim=1)


def _farthest(distances_to: Callable[[Tensor], Tensor], num_points: int, num: int, samples: Tensor) -> Tensor:
    """Farthest point picks (B, num), given squared distances (B, N) from a row of each sample."""
    picks = torch.zeros(len(samples), num, dtype=torch.int64, device=samples.device)
    nearest = torch.full((len(samples), num_points), 1e10, device=samples.device)
    for i in range(1, num):
        nearest = torch.minimum(nearest, distances_to(picks[:, i - 1]))
        picks[:, i] = nearest.argmax(dim=1)
    return picks


def ball_query_on_device(
    xyz: Tensor,
    centres: Tensor,
    radii: Sequence[float],
    num_neighbours: Sequence[int],
    *,
    ring: bool,
    order: Literal["first", "nearest"],
) -> list[Tensor]:
    """The same as :func:`simipu_core.geometry.neighbours.ball_query`, by brute force on tensors.

    Args:
        xyz: (B, N, 3) metres.
        centres: (B, M, 3) metres; each coincides with a point of `xyz`.
        radii: ascending ball radii, metres.
        num_neighbours: neighbours K_i per radius, at most N.
        ring: rings instead of full balls.
        order: which candidates to keep, and their order.

    Returns:
        per radius (B, M, K_i) int64 rows of `xyz`.
    """
    high = torch.tensor(radii, dtype=xyz.dtype).square().tolist()
    rows = torch.arange(xyz.shape[1], device=xyz.device, dtype=xyz.dtype)
    found: list[list[Tensor]] = [[] for _ in radii]
    for part in torch.split(centres, _CHUNK, dim=1):
        squares = (part[:, :, None] - xyz[:, None]).square().sum(dim=-1)
        for i, num in enumerate(num_neighbours):
            low = high[i - 1] if ring and i else 0.0
            is_inside = (squares < high[i]) & ((squares >= low) | (squares == 0))
            keys = torch.where(is_inside, rows if order == "first" else squares, torch.inf)
            best = keys.topk(num, dim=-1, largest=False)
            found[i].append(torch.where(best.values.isinf(), best.indices[..., :1], best.indices))
    return [torch.cat(parts, dim=1) for parts in found]
