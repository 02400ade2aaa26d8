"""Sections of contrastive pre-training."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from simipu_core.config.backbones import BackboneName
from simipu_core.config.section import Address, Count, DecoderChannels, PixelRange, Positive, Range, Section, kind_or
from simipu_core.config.training import (
    AdamWConfig,
    ColourConfig,
    InputConfig,
    LoopConfig,
    Optimizer,
    SGDConfig,
    check_norm_values,
)


class SetAbstractionConfig(Section):
    """One multi-scale set-abstraction level of the point encoder."""

    num_points: int = Field(ge=1)
    """Centres kept by farthest point sampling."""
    radii: tuple[Positive, ...] = Field(min_length=1)
    """Ball radii, metres, ascending."""
    num_neighbours: tuple[Count, ...]
    """Neighbours gathered per radius."""
    mlps: tuple[Annotated[tuple[Count, ...], Field(min_length=1)], ...]
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

    levels: tuple[SetAbstractionConfig, ...] = Field(REFERENCE_LEVELS, min_length=1)
    """Set-abstraction levels, fine to coarse; each picks its centres among those of the one before."""
    ring: bool = True
    """Ring i gathers between radius i-1 and radius i; otherwise every ball starts at its centre."""
    neighbours: Literal["first", "nearest"] = "nearest"
    """Which neighbours fill a ball that holds too many: first in index order (published) or nearest."""
    sampling: Literal["distance", "feature_halves"] = "distance"
    """How levels after the first pick their centres. `distance`: farthest points, the same picks as one pass over the
    raw cloud · `feature_halves` (published): half by distance of positions and learnt features, half by position."""
    inherited_split: bool = False
    """With `feature_halves`, at the last level: the feature half comes from the first rows of its input (which are
    exactly as many, so all of them), the position half from the others; a left-over setting of the published code."""
    input_features: Literal["reflectance", "reflectance_xyz", "reflectance_range"] = "reflectance_range"
    """Features of a raw point: reflectance alone (published), with its position divided by the point range, or with
    the logarithm of its distance from the sensor. The last makes pixels tell depth; with the position they can tell
    points apart by the direction alone, which a pixel knows from its place in the image."""
    mixed_precision: bool = False
    """Let `precision: bf16` count for the point encoder too. Otherwise it stays fp32: in bf16 the features of its last
    level are 12 % off (benchmarks/results/precision.json), and with them what pixels are to match."""
    recompute_groups: bool = False
    """Compute grouped features again in the backward pass instead of keeping them: less memory, more time."""

    @model_validator(mode="after")
    def _levels_coarsen(self) -> Self:
        centres = [level.num_points for level in self.levels]
        if centres != sorted(centres, reverse=True):
            raise ValueError(
                f"levels have {', '.join(map(str, centres))} num_points; none can have more than the one before"
            )
        if self.sampling == "feature_halves":
            for number, (before, level) in enumerate(pairwise(self.levels), start=2):
                if level.num_points % 2:
                    raise ValueError(f"level {number} picks {level.num_points} num_points in two halves; make it even")
                if max(level.num_neighbours) > before.num_points:
                    raise ValueError(
                        f"level {number} gathers {max(level.num_neighbours)} num_neighbours of the {before.num_points} "
                        f"num_points that level {number - 1} leaves; it cannot gather more than there are"
                    )
        return self

    @property
    def num_features(self) -> int:
        """Channels of a raw point."""
        return {"reflectance": 1, "reflectance_range": 2, "reflectance_xyz": 4}[self.input_features]


class PointViewConfig(Section):
    """Sampling and augmentation of the point cloud (docs/method.md, "Augmentation")."""

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

    @model_validator(mode="after")
    def _range_holds_points(self) -> Self:
        low, high = self.point_range[:3], self.point_range[3:]
        if not all(first < last for first, last in zip(low, high, strict=True)):
            raise ValueError(f"point_range goes from {low} to {high}; write the minimum of x, y, z, then the maximum")
        return self


class ImageViewConfig(ColourConfig):
    """Resizing (docs/method.md, "Image size") and colours of the pre-training image."""

    colour: float = Field(0.0, ge=0, le=1)
    """Probability of gamma, brightness and per-channel changes (published: none)."""

    long_side: PixelRange = (640, 2400)
    """Range from which the bound on the longer side is drawn, pixels, inclusive."""
    short_side: PixelRange = (192, 720)
    """Range from which the bound on the shorter side is drawn independently, pixels, inclusive."""
    pad_multiple: int = Field(32, ge=1)
    """Images are padded with zeros at the bottom and right to multiples of this, pixels."""


class ImageEncoderConfig(Section):
    """ResNet image encoder, built by timm."""

    name: BackboneName = "resnet50"
    """Architecture."""
    init: Literal["kaiming_zero_gamma", "torch_default", "imagenet", "checkpoint"] = "torch_default"
    """Start. Random: Kaiming normal with zeroed residual branches, or PyTorch's own defaults (also published) ·
    `imagenet`: timm's torchvision V1 weights, from `init_file` where it is set · `checkpoint`: `init_file`."""
    init_file: Address | None = None
    """Weights file for `imagenet` or `checkpoint`, also s3://… or hf://OWNER/NAME@REVISION/FILE#SHA256: .safetensors,
    or .pth (read as plain tensors only)."""
    norm_eps: float = Field(1e-5, gt=0)
    """BatchNorm epsilon (published: 1e-3 here, 1e-5 when fine-tuning)."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """BatchNorm momentum (share of the new batch)."""

    @model_validator(mode="after")
    def _checkpoint_is_named(self) -> Self:
        if self.init == "checkpoint" and self.init_file is None:
            raise ValueError("init is `checkpoint`: name the weights in init_file")
        return self


class HeadConfig(Section):
    """Three-layer projection heads."""

    point_hidden: int = Field(1024, ge=1)
    """Hidden width of the two point heads."""
    image_hidden: int = Field(2048, ge=1)
    """Hidden width of the image head."""
    out_channels: int = Field(128, ge=2)
    """Width of the contrasted embedding."""


class ContrastConfig(Section):
    """Positive pairs and losses of pre-training (docs/method.md, "Positives" and "Losses")."""

    pairing: Literal["index", "mutual_nearest", "hungarian"] = "index"
    """Point-point positives: exact by index (both views start sampling at the same point), mutual nearest
    neighbours, or Hungarian matching without a distance cap (published)."""
    feature_strides: tuple[Literal[4, 8, 16, 32], ...] = (16,)
    """Strides of the image feature maps that are sampled, pixels; several are joined (published: 32 alone)."""
    feature_sampling: Literal["half_pixel", "align_corners"] = "half_pixel"
    """How a pixel maps to the feature grid: by pixel centres, or stretched corner to corner (published)."""
    sampling_extent: Literal["batch", "image"] = "batch"
    """Size that the feature map is taken to cover: that of the padded batch, which it does cover, or the image's own
    padded size (published), which stretches the pixels of all but the largest image of a batch."""
    group_size: int = Field(4, ge=1)
    """Samples of a batch that are each other's negatives (published: the 4 of one GPU)."""
    drop_invisible: bool = True
    """Leave points outside the image or hidden behind nearer ones out of the inter-modal loss (published: kept)."""
    temperature: float = Field(0.07, gt=0)
    """InfoNCE temperature."""
    intra_weight: float = Field(1.0, ge=0)
    """Weight of the point-point loss, in which the original view learns from the augmented one."""
    inter_weight: float = Field(1.0, ge=0)
    """Weight of the pixel-point loss."""
    symmetric_inter: bool = True
    """Average the pixel → point and point → pixel directions (published: pixel → point only)."""
    stop_point_gradient: bool = False
    """Stop the inter-modal gradient at the point side (published), so only the image learns from it and the
    cross-modal point head keeps its random weights."""
    chunk_rows: int | None = Field(None, ge=1)
    """Work through the similarity matrix this many rows at a time, recomputed in the backward pass: less memory."""

    @model_validator(mode="after")
    def _switches_agree(self) -> Self:
        if not self.feature_strides or list(self.feature_strides) != sorted(set(self.feature_strides)):
            raise ValueError("feature_strides must ascend, each once")
        if self.symmetric_inter and self.stop_point_gradient:
            raise ValueError("symmetric_inter needs stop_point_gradient: false, or point queries would learn nothing")
        return self


class LidarDepthConfig(Section):
    """Depth regression on the scans (docs/method.md, "LiDAR depth")."""

    weight: float = Field(1.0, gt=0)
    """Weight beside the contrastive losses, where the objective is `both`."""
    decoder_channels: DecoderChannels = (1024, 512, 256, 128)
    """Widths of the decoder's up-blocks, stride 16 to stride 2; as `finetune.decoder_channels`, where that takes
    the decoder over."""
    max_depth: float = Field(80.0, gt=0)
    """Largest depth the net can answer, metres; points beyond teach nothing."""
    image_scale: float = Field(1.0, gt=0)
    """Size at which pictures show true depths, as a factor on the camera's: a picture of another size shows the same
    things nearer or farther. As `finetune.input_scale`, where fine-tuning takes the decoder over."""
    sig_lambda: float = Field(0.15, ge=0, le=1)
    """Weight of the squared mean in SigLoss."""


class ProbeConfig(Section):
    """Label-free progress: a linear map from frozen image features to depth, fitted and scored on the scans."""

    every_epochs: int = Field(5, ge=0)
    """Epochs between probes; 0 never probes. The last epoch is always probed otherwise."""
    num_samples: int = Field(64, ge=4)
    """Pairs used, evenly spread over the set; the last quarter is scored, the rest fits."""
    penalty: float = Field(0.1, gt=0)
    """Ridge penalty on standardised features."""


class PretrainConfig(LoopConfig):
    """Pre-training without labels: SimIPU's contrast, regression of the scans' depth, or both."""

    objective: Literal["contrastive", "lidar_depth", "both"] = "contrastive"
    """What is learnt from. `contrastive`: SimIPU's pairs (published) · `lidar_depth`: the scans as sparse depth ·
    `both`: the sum of the two, in one pass of the image encoder."""
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
    lidar_depth: LidarDepthConfig = LidarDepthConfig()
    """Depth regression on the scans."""
    probe: ProbeConfig = ProbeConfig()
    """Label-free progress."""
    point_optimizer: Annotated[Optimizer, kind_or("adamw")] = AdamWConfig(lr=1e-3)
    """Optimiser of the point encoder; AdamW with lr 0.001 where none is written."""
    image_optimizer: Annotated[Optimizer, kind_or("sgd")] = SGDConfig()
    """Optimiser of the image encoder, its head and the depth decoder; AdamW with lr 0.0003 where none is written and
    depth is learnt, which at the contrast's rate ends with a net that answers one depth everywhere."""
    head_optimizer: Annotated[Optimizer, kind_or("sgd")] = SGDConfig()
    """Optimiser of the two point heads."""
    lr_decay: float = Field(0.99, gt=0, le=1)
    """Factor on all learning rates after each epoch."""

    @model_validator(mode="before")
    @classmethod
    def _depth_is_learnt_at_its_own_rate(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("objective", "contrastive") != "contrastive":
            return {"image_optimizer": {"kind": "adamw", "lr": 3e-4}, **values}
        return values

    @property
    def has_contrast(self) -> bool:
        """Whether SimIPU's losses are among what is learnt from."""
        return self.objective != "lidar_depth"

    @property
    def has_decoder(self) -> bool:
        """Whether a depth decoder is trained."""
        return self.objective != "contrastive"

    @model_validator(mode="after")
    def _norms_see_values(self) -> Self:
        longest = -(-max(self.image.long_side[0], self.image.short_side[0]) // self.image.pad_multiple)
        side = longest * self.image.pad_multiple  # at most, where the smallest bounds are drawn
        stride = 32 if self.has_decoder else max(self.contrast.feature_strides)
        check_norm_values(self.batch_size // self.accumulate, (side, side), stride, "image.long_side and short_side")
        return self

    @model_validator(mode="after")
    def _pairs_are_possible(self) -> Self:
        if (first := self.point_encoder.levels[0].num_points) > self.points.num_points:
            raise ValueError(
                f"the first of point_encoder.levels picks {first} of the {self.points.num_points} points that "
                "points.num_points leaves; raise the one or lower the other"
            )
        if self.batch_size == self.accumulate and self.point_encoder.levels[-1].num_points == 1:
            raise ValueError(
                "one sample a micro-batch and num_points 1 at the last of point_encoder.levels leave BatchNorm a single"
                " value; lower accumulate, or raise num_points"
            )
        if self.point_encoder.sampling == "feature_halves" and self.contrast.pairing == "index":
            raise ValueError("contrast.pairing `index` needs point_encoder.sampling `distance`; learnt picks differ")
        if self.point_encoder.inherited_split and self.point_encoder.sampling != "feature_halves":
            raise ValueError("point_encoder.inherited_split needs point_encoder.sampling `feature_halves`")
        return self
