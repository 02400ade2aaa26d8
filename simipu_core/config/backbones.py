"""The image encoders that can be chosen."""

from typing import TYPE_CHECKING, Literal, NamedTuple


class Backbone(NamedTuple):
    """What tells one ResNet from another."""

    is_bottleneck: bool
    """Blocks of three convolutions, not of two."""
    num_blocks: tuple[int, int, int, int]
    """Blocks of each stage."""


BACKBONES = {
    "resnet18": Backbone(False, (2, 2, 2, 2)),
    "resnet34": Backbone(False, (3, 4, 6, 3)),
    "resnet50": Backbone(True, (3, 4, 6, 3)),
    "resnet101": Backbone(True, (3, 4, 23, 3)),
}
"""By timm's name, which builds them and knows their channels; torchvision's ImageNet weights must be in timm's hub."""

if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Literal[tuple(BACKBONES)]
