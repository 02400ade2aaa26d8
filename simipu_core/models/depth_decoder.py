"""DenseDepth decoder."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from simipu_core.config import Section


class DecoderSpec(Section):
    """What a depth decoder's weights are; stored inside their file."""

    kind: Literal["depth_decoder"] = "depth_decoder"
    encoder_name: str
    """timm architecture whose feature levels it reads."""
    channels: tuple[int, int, int, int]
    max_depth: float
    """Largest depth it answers, metres."""
    image_scale: float
    """Size of pictures, as a factor on the camera's, whose depths are true."""


class DepthDecoder(nn.Module):
    """Five feature levels → one logit map at stride 2 (docs/method.md, "Decoder").

    No normalisation layers; 54,262,657 parameters for ResNet-50 and the reference widths.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        *skips, bottom = in_channels
        self.bottom = nn.Conv2d(bottom, bottom, 1)
        blocks = []
        for skip, width in zip(reversed(skips), channels, strict=True):
            blocks.append(UpBlock(bottom + skip, width))
            bottom = width
        self.blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.head = nn.Conv2d(bottom, 1, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (B, C_i, H_i, W_i), stride 2 to 32 → logits (B, 1, H/2, W/2)."""
        *skips, bottom = features
        x = self.bottom(bottom)
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        logits: Tensor = self.head(x)
        return logits


class UpBlock(nn.Module):
    """Resize to the skip's size, join, two 3×3 convolutions with ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, S, H, W) → (B, out, H, W)."""
        joined: Tensor = self.convs(torch.cat([_resized(x, skip.shape[-2:]), skip], dim=1))
        return joined


# compiled, its backward pass would add up by atomics, several times slower
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
