"""ResNet image encoder through timm, and the input convention of its first convolution."""

from functools import partial

import timm
import torch
from torch import Tensor, nn

from simipu_core.config import InputConfig

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the five feature levels; the first is the stem before max-pooling."""


def image_encoder(name: str, *, norm_eps: float = 1e-5, norm_momentum: float = 0.1) -> nn.Module:
    """A ResNet that returns its five feature levels, stride 2 to 32 (reference sections 2.2 and 5.1).

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
        images = images.float()
        if self.bgr:
            images = images.flip(1)
        return (images - self.mean) / self.std
