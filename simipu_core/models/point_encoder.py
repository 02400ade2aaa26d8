"""Point encoder: multi-scale set abstraction over neighbourhoods that the loader has computed."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from simipu_core.config import PointEncoderConfig, SetAbstractionConfig

_NORM_EPS = 1e-3  # of the point-wise layers; the aggregation keeps PyTorch's default (reference section 2.1)


class PointEncoder(nn.Module):
    """PointNet++-style encoder without feature propagation (reference section 2.1).

    Points are in farthest point order, so that the centres of a level with M points are the first M rows of its
    input. 1,778,432 parameters at the reference sizes.
    """

    def __init__(self, config: PointEncoderConfig) -> None:
        super().__init__()
        channels = 1 if config.input_features == "reflectance" else 4
        levels = []
        for level in config.levels:
            levels.append(SetAbstraction(channels, level, relative=config.coordinates == "relative"))
            channels = level.out_channels
        self.levels = nn.ModuleList(levels)
        self.out_channels = channels

    def forward(self, xyz: Tensor, features: Tensor, neighbours: Sequence[Sequence[Tensor]]) -> Tensor:
        """Encode a batch of clouds.

        Args:
            xyz: (B, N, 3) metres, in farthest point order.
            features: (B, N, C) raw point features.
            neighbours: per level and radius (B, M, K) integer rows of the level's input.

        Returns:
            features (B, M, out_channels) of the last level's centres.
        """
        for level, groups in zip(self.levels, neighbours, strict=True):
            features = level(xyz, features, groups)
            xyz = xyz[:, : features.shape[1]]
        return features


class SetAbstraction(nn.Module):
    """One level: point-wise layers and a maximum over each neighbourhood, per radius, then an aggregation."""

    def __init__(self, in_channels: int, config: SetAbstractionConfig, *, relative: bool) -> None:
        super().__init__()
        self.relative = relative
        first = in_channels + (3 if relative else 0)
        self.scales = nn.ModuleList(_mlp((first, *widths), _NORM_EPS) for widths in config.mlps)
        self.aggregation = _mlp((sum(widths[-1] for widths in config.mlps), config.out_channels), 1e-5)

    def forward(self, xyz: Tensor, features: Tensor, neighbours: Sequence[Tensor]) -> Tensor:
        """(B, N, 3), (B, N, C) and per radius (B, M, K) rows → (B, M, out_channels)."""
        pooled = []
        for mlp, rows in zip(self.scales, neighbours, strict=True):
            batch, centres, num = rows.shape
            grouped = gather_rows(features, rows)
            if self.relative:
                offsets = gather_rows(xyz, rows) - xyz[:, :centres, None]
                grouped = torch.cat([offsets, grouped], dim=-1)
            pooled.append(mlp(grouped.flatten(0, 2)).view(batch, centres, num, -1).max(dim=2).values)
        joined = torch.cat(pooled, dim=-1)
        aggregated: Tensor = self.aggregation(joined.flatten(0, 1))
        return aggregated.view(*joined.shape[:2], -1)


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Take rows (B, ...) of values (B, N, C), each sample from its own; result (B, ..., C)."""
    batch, num, channels = values.shape
    offsets = torch.arange(batch, device=rows.device, dtype=rows.dtype) * num
    flat = rows + offsets.view(-1, *[1] * (rows.dim() - 1))
    return values.reshape(batch * num, channels).index_select(0, flat.flatten()).view(*rows.shape, channels)


def _mlp(widths: Sequence[int], eps: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.BatchNorm1d(fan_out, eps=eps), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
