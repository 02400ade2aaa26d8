"""Point encoder: multi-scale set abstraction over neighbourhoods that, where possible, the loader has computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simipu_core.config import PointEncoderConfig, SetAbstractionConfig
from simipu_core.data.batches import Level, PointView
from simipu_core.geometry.learnt_sampling import ball_query_on_device, feature_halves

_NORM_EPS = 1e-3  # of the point-wise layers; the aggregation keeps PyTorch's default (docs/method.md, "Point encoder")


class EncodedPoints(NamedTuple):
    """The last level's centres."""

    features: Tensor
    """(B, M, C)."""
    rows: Tensor
    """(B, M) int64 rows of the view's points."""


class PointEncoder(nn.Module):
    """PointNet++-style encoder without feature propagation (docs/method.md, "Point encoder").

    1,778,432 parameters at the reference sizes.
    """

    def __init__(self, config: PointEncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.num_features
        levels = []
        for level in config.levels:
            levels.append(SetAbstraction(channels, level, config))
            channels = level.out_channels
        self.levels = nn.ModuleList(levels)
        self.out_channels = channels

    def forward(self, view: PointView) -> EncodedPoints:
        """Encode a batch of clouds, in float32 unless `mixed_precision` is set."""
        if self.config.mixed_precision:
            return self._encode(view)
        with torch.autocast(view.xyz.device.type, enabled=False):
            return self._encode(view)

    def _encode(self, view: PointView) -> EncodedPoints:
        xyz, features = view.xyz, view.features
        rows = torch.arange(xyz.shape[1], device=xyz.device).expand(len(xyz), -1)
        for number, level in enumerate(self.levels):
            geometry = view.levels[number] if number < len(view.levels) else self._geometry(number, xyz, features)
            features = level(features, geometry)
            xyz = gather_rows(xyz, geometry.centres)
            rows = rows.gather(1, geometry.centres)
        return EncodedPoints(features, rows)

    @torch.no_grad()
    def _geometry(self, number: int, xyz: Tensor, features: Tensor) -> Level:
        """Centres that depend on learnt features, and their neighbourhoods."""
        config, level = self.config, self.config.levels[number]
        is_last = number == len(self.config.levels) - 1
        with torch.autocast(xyz.device.type, enabled=False):
            centres = feature_halves(xyz, features, level.num_points, split=config.inherited_split and is_last)
            neighbours = ball_query_on_device(
                xyz,
                gather_rows(xyz, centres),
                level.radii,
                level.num_neighbours,
                ring=config.ring,
                order=config.neighbours,
            )
        return Level(centres, neighbours)


class SetAbstraction(nn.Module):
    """One level: point-wise layers and a maximum over each neighbourhood, per radius, then an aggregation."""

    def __init__(self, in_channels: int, level: SetAbstractionConfig, config: PointEncoderConfig) -> None:
        super().__init__()
        self.recompute = config.recompute_groups
        self.scales = nn.ModuleList(_mlp((in_channels, *widths), _NORM_EPS) for widths in level.mlps)
        self.aggregation = _mlp((sum(widths[-1] for widths in level.mlps), level.out_channels), 1e-5)

    def forward(self, features: Tensor, geometry: Level) -> Tensor:
        """(B, N, C) of the level's input → (B, M, out_channels) of its centres."""
        pooled = []
        for mlp, rows in zip(self.scales, geometry.neighbours, strict=True):
            if self.recompute and self.training:
                contexts = lambda mlp=mlp: (nullcontext(), _frozen_statistics(mlp))  # noqa: E731
                pooled.append(checkpoint(self._pool, mlp, features, rows, use_reentrant=False, context_fn=contexts))
            else:
                pooled.append(self._pool(mlp, features, rows))
        joined = torch.cat(pooled, dim=-1)
        aggregated: Tensor = self.aggregation(joined.flatten(0, 1))
        return aggregated.view(*joined.shape[:2], -1)

    def _pool(self, mlp: Any, features: Tensor, rows: Tensor) -> Tensor:
        """Layers and maximum over the neighbourhoods of one radius.

        The first layer is linear, so it runs once per point and its results are gathered, instead of once per member
        of every neighbourhood.
        """
        first, *others = mlp
        grouped = gather_rows(first(features), rows)
        batch, num_centres, num, _ = grouped.shape
        hidden = grouped.flatten(0, 2)
        for layer in others:
            hidden = layer(hidden)
        return hidden.view(batch, num_centres, num, -1).max(dim=2).values


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


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm see a batch again without counting it twice in its running statistics."""
    norms: list[Any] = [layer for layer in module.modules() if hasattr(layer, "num_batches_tracked")]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
