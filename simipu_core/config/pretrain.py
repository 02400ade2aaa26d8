"""Sections of contrastive pre-training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from simipu_core.config.section import Range, Section, Size
from simipu_core.config.training import AdamWConfig, InputConfig, LoopConfig, SGDConfig


class SetAbstractionConfig(Section):
    """One multi-scale set-abstraction level of the point encoder."""

    num_points: int = Field(ge=1)
    """Centres kept by farthest point sampling."""
    radii: tuple[float, ...]
    """Ball radii, metres, ascending."""
    num_neighbours: tuple[int, ...]
    """Neighbours gathered per radius."""
    mlps: tuple[tuple[int, ...], ...]
    """Widths of the point-wise layers per radius."""
    out_channels: int = Field(ge=1)
    """Width of the aggregation over all radii."""

    @model_validator(mode="after")
    def _scales_agree(self) -> Self:
        if not len(self.radii) == len(self.num_neighbours) == len(self.mlps):
            raise ValueError("radii, num_neighbours and mlps need the same length")
        if list(self.radii) != sorted(self.radii):
            raise ValueError("radii must ascend")
        return self


REFERENCE_LEVELS = (
    SetAbstractionConfig(
        num_points=4096,
        radii=(0.2, 0.4, 0.8),
        num_neighbours=(32, 32, 64),
        mlps=((32, 32, 64), (32, 32, 64), (64, 64, 128)),
        out_channels=128,
    ),
    SetAbstractionConfig(
        num_points=2048,
        radii=(0.4, 0.8, 1.6),
        num_neighbours=(32, 32, 64),
        mlps=((64, 64, 128), (64, 64, 128), (128, 128, 256)),
        out_channels=256,
    ),
    SetAbstractionConfig(
        num_points=1024,
        radii=(1.6, 3.2, 4.8),
        num_neighbours=(16, 16, 16),
        mlps=((128, 128, 256), (128, 128, 256), (256, 256, 512)),
        out_channels=1024,
    ),
)


class PointEncoderConfig(Section):
    """Three-level multi-scale set abstraction (PointNet++ as in 3DSSD)."""

    levels: tuple[SetAbstractionConfig, ...] = REFERENCE_LEVELS
    """Set-abstraction levels, fine to coarse."""
    ring: bool = True
    """Ring i gathers between radius i-1 and radius i; otherwise every ball starts at its centre."""
    neighbours: Literal["first", "nearest"] = "nearest"
    """Which neighbours fill a ball that holds too many: first in index order (published) or nearest."""
    coordinates: Literal["none", "relative"] = "none"
    """Coordinates relative to the centre appended to each neighbour's features (published: none)."""
    input_features: Literal["reflectance", "reflectance_xyz"] = "reflectance"
    """Features of a raw point; `reflectance_xyz` adds its absolute position divided by the point range."""


class PointViewConfig(Section):
    """Sampling and augmentation of the point cloud (reference section 1.3)."""

    num_points: int = Field(16384, ge=64)
    """Points sampled from each scan after the range filter."""
    point_range: tuple[float, float, float, float, float, float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    """x, y, z minimum then maximum, metres in the sensor frame; points outside are dropped."""
    rotation_deg: float = Field(90.0, ge=0, le=180)
    """Largest rotation about the vertical axis through the range's centre, degrees."""
    scale: Range = (0.75, 1.25)
    """Uniform scaling about the sensor's origin."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring image and points left-right together."""


class ImageViewConfig(Section):
    """Resizing of the pre-training image (reference section 1.2, step 6)."""

    long_side: Size = (640, 2400)
    """Range from which the bound on the longer side is drawn, pixels, inclusive."""
    short_side: Size = (192, 720)
    """Range from which the bound on the shorter side is drawn independently, pixels, inclusive."""
    pad_multiple: int = Field(32, ge=1)
    """Images are padded with zeros at the bottom and right to multiples of this, pixels."""


class ImageEncoderConfig(Section):
    """ResNet image encoder, built by timm."""

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Architecture."""
    init: Literal["kaiming_zero_gamma", "torch_default"] = "torch_default"
    """Random start: Kaiming normal with zeroed residual branches, or PyTorch's own defaults."""
    norm_eps: float = Field(1e-5, gt=0)
    """BatchNorm epsilon."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """BatchNorm momentum (share of the new batch)."""


class HeadConfig(Section):
    """Three-layer projection heads."""

    point_hidden: int = Field(1024, ge=1)
    """Hidden width of the two point heads."""
    image_hidden: int = Field(2048, ge=1)
    """Hidden width of the image head."""
    out_channels: int = Field(128, ge=2)
    """Width of the contrasted embedding."""


class ContrastConfig(Section):
    """Positive pairs and losses of pre-training (reference sections 1.4 and 3)."""

    pairing: Literal["index", "mutual_nearest", "hungarian"] = "index"
    """Point-point positives: exact by index (both views start sampling at the same point), mutual nearest
    neighbours, or Hungarian matching (published)."""
    feature_stride: Literal[8, 16, 32] = 32
    """Stride of the image feature map that is sampled, pixels."""
    feature_sampling: Literal["half_pixel", "align_corners"] = "half_pixel"
    """How a pixel maps to the feature grid: by pixel centres, or stretched corner to corner (published)."""
    group_size: int = Field(4, ge=1)
    """Samples of a batch that are each other's negatives (published: the 4 of one GPU)."""
    drop_invisible: bool = True
    """Leave points outside the image or hidden behind nearer ones out of the inter-modal loss."""
    temperature: float = Field(0.07, gt=0)
    """InfoNCE temperature."""
    intra_weight: float = Field(1.0, ge=0)
    """Weight of the point-point loss."""
    inter_weight: float = Field(1.0, ge=0)
    """Weight of the pixel-point loss."""
    symmetric_inter: bool = False
    """Average the pixel → point and point → pixel directions (published: pixel → point only)."""
    stop_point_gradient: bool = True
    """Stop the inter-modal gradient at the point side (published), so only the image learns from it."""


class PretrainConfig(LoopConfig):
    """SimIPU contrastive pre-training."""

    epochs: int = Field(50, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(32, ge=2)
    """Pairs per optimiser step."""
    points: PointViewConfig = PointViewConfig()
    """Point cloud views."""
    image: ImageViewConfig = ImageViewConfig()
    """Image view."""
    input: InputConfig = InputConfig()
    """Input convention of the image encoder."""
    point_encoder: PointEncoderConfig = PointEncoderConfig()
    """Point encoder."""
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    """Image encoder."""
    heads: HeadConfig = HeadConfig()
    """Projection heads."""
    contrast: ContrastConfig = ContrastConfig()
    """Positives and losses."""
    point_optimizer: AdamWConfig = AdamWConfig(lr=1e-3)
    """Optimiser of the point encoder."""
    image_optimizer: SGDConfig = SGDConfig()
    """Optimiser of the image encoder and its head."""
    head_optimizer: SGDConfig = SGDConfig()
    """Optimiser of the two point heads."""
    lr_decay: float = Field(0.99, gt=0, le=1)
    """Factor on all learning rates after each epoch."""
