"""ResNet image encoder through timm, and the input convention of its first convolution."""

from collections.abc import Iterator
from functools import partial

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from simipu_core.config import InputConfig

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the five feature levels; the first is the stem before max-pooling."""


def image_encoder(name: str, *, norm_eps: float = 1e-5, norm_momentum: float = 0.1) -> nn.Module:
    """A ResNet that returns its five feature levels, stride 2 to 32 (docs/method.md, "Image encoder").

    Tensor names are torchvision's, without ``fc``; ResNet-50 has 318 tensors and 23,508,032 parameters. The weights
    are random: Kaiming normal over fan-out, with the last BatchNorm gain of each block at zero.

    Args:
        name: timm architecture, e.g. ``resnet50``.
        norm_eps: BatchNorm epsilon.
        norm_momentum: BatchNorm momentum.
    """
    norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
    encoder: nn.Module = timm.create_model(
        name, pretrained=False, features_only=True, out_indices=range(5), norm_layer=norm
    )
    return encoder


def reset_to_torch_default(encoder: nn.Module) -> None:
    """Draw PyTorch's default weights: Kaiming uniform convolutions, all BatchNorm gains at one."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()


def feature_channels(encoder: nn.Module) -> list[int]:
    """Channels of the five feature levels."""
    channels: list[int] = encoder.feature_info.channels()  # type: ignore[union-attr, operator]
    return channels


def feature_maps(encoder: nn.Module, images: Tensor, num_levels: int) -> list[Tensor]:
    """The first feature levels of a timm feature encoder; later stages are not run."""
    maps: list[Tensor] = []
    for name, module in encoder.items():  # type: ignore[operator]
        images = module(images)
        if name in encoder.return_layers:  # type: ignore[operator]
            maps.append(images)
        if len(maps) == num_levels:
            break
    return maps


def unused_modules(encoder: nn.Module, num_levels: int) -> Iterator[nn.Module]:
    """The modules of a timm feature encoder behind its first feature levels."""
    level = 0
    for name, module in encoder.items():  # type: ignore[operator]
        if level >= num_levels:
            yield module
        level += name in encoder.return_layers  # type: ignore[operator]


def sample_features(maps: Tensor, pixels: Tensor, size: Tensor, *, align_corners: bool) -> Tensor:
    """Bilinear features at pixels, zero outside the map (docs/method.md, "Pixel features").

    Args:
        maps: (B, C, h, w) features of the padded images.
        pixels: (B, M, 2) u, v in the padded images.
        size: (2,) or (B, 2) height and width that the map is taken to cover.
        align_corners: stretch that extent corner to corner over the map, so that column = u / W · (w - 1)
            (published); otherwise pixel centres keep their place, scaled by the stride.

    Returns:
        (B, M, C).
    """
    extent = size.flip(-1).to(pixels).view(-1, 1, 2)
    grid = 2 * (pixels if align_corners else pixels + 0.5) / extent - 1
    if maps.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _gathered_features(maps, grid, align_corners=align_corners)
    sampled = F.grid_sample(maps, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=align_corners)
    return sampled[:, :, 0].transpose(1, 2)


def _gathered_features(maps: Tensor, grid: Tensor, *, align_corners: bool) -> Tensor:
    """What `grid_sample` gives at (B, M, 2), by operations that have a deterministic backward pass on a GPU."""
    batch, channels, height, width = maps.shape
    extent = grid.new_tensor([width, height])
    place = (grid + 1) / 2 * (extent - 1) if align_corners else ((grid + 1) * extent - 1) / 2
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    first = torch.arange(batch, device=maps.device)[:, None] * (height * width)
    lower = place.floor()
    total = maps.new_zeros(batch, grid.shape[1], channels)
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = lower + grid.new_tensor(step)
        weight = (1 - (place - corner).abs()).prod(dim=-1)
        is_inside = ((corner >= 0) & (corner < extent)).all(dim=-1)
        column, row = corner.clamp(min=0).minimum(extent - 1).long().unbind(-1)
        values = table.index_select(0, (first + row * width + column).flatten()).view_as(total)
        total = total + values * (weight * is_inside)[..., None]
    return total


class Normalize(nn.Module):
    """RGB on the 0–255 scale → what the first convolution sees."""

    def __init__(self, convention: InputConfig) -> None:
        super().__init__()
        self.bgr = convention.channels == "bgr"
        self.register_buffer("mean", torch.tensor(convention.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(convention.std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB, any dtype, 0–255 → float32 in the convention's channel order."""
        images = images.contiguous().float()
        if self.bgr:
            images = images.flip(1)
        return (images - self.mean) / self.std
