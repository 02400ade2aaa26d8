"""The whole configuration of an experiment: frozen, validated, unknown keys refused.

The defaults are the full-size reference settings (reference: SimIPU, arXiv 2112.04680, and its released
configuration). ``params.yaml`` and every file in ``experiments/`` state only what differs from them.
"""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from simipu_core.errors import SimipuError

Range = tuple[float, float]
Size = tuple[int, int]
ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(BaseModel):
    """Base of every section: immutable, closed, documented."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SyntheticConfig(Section):
    """The ray-cast world that `simipu synthesize` renders to genuine KITTI and NYU files."""

    object_frames: int = Field(256, ge=0)
    """Number of independent street scenes written in the KITTI object layout."""
    drives: int = Field(8, ge=0)
    """Number of drives written in the KITTI raw layout with official-style depth ground truth."""
    frames_per_drive: int = Field(24, ge=1)
    """Frames of each drive; the camera moves between them."""
    rooms: int = Field(0, ge=0)
    """Number of furnished rooms written in the NYU sync layout (480×640)."""
    image_size: Size = (96, 320)
    """Height and width of the street camera's image, pixels."""
    lidar_points: int = Field(20000, ge=640)
    """LiDAR rays of one full turn over all 64 beams; drop-outs and sky leave somewhat fewer points."""
    seed: int = Field(0, ge=0)
    """Seed of the world; the same seed gives the same files."""


class SourceConfig(Section):
    """Where raw frames come from and how they are split."""

    kind: Literal["kitti", "kitti_object", "kitti_raw", "kitti_depth", "nyu"] = "kitti"
    """Layout: `kitti` reads kitti_object/ and kitti_raw/ together; `kitti_depth` is raw images with official
    ground truth in kitti_depth/; `nyu` is the sync folders."""
    root: str = "data/raw"
    """Folder that holds the layout's folder (kitti_object/, kitti_raw/, kitti_depth/, nyu/), or that folder itself."""
    drives_only: bool = False
    """With `kitti`: read the object frames only where there is no raw drive."""
    split: Literal["none", "eigen", "within_sequence", "by_sequence", "folders"] = "none"
    """`none`: all frames train · `eigen`: the Eigen split of KITTI raw · `within_sequence`: the first
    `train_share` of each sequence trains, the rest evaluates · `by_sequence`: whole sequences ·
    `folders`: what lies under a folder called `test` evaluates (NYU official_splits)."""
    train_share: float = Field(2 / 3, gt=0, lt=1)
    """Share of frames or sequences that train, for `within_sequence` and `by_sequence`."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of broken frames, 0–1; more stops the step."""


class PairConfig(Section):
    """How frames become self-contained shards."""

    image_encoding: Literal["source", "jpeg"] = "source"
    """`source` keeps the camera's file bytes; `jpeg` re-encodes at quality 95 (smaller, decodes ~4× faster)."""
    depth_from: Literal["official", "projected_lidar"] = "official"
    """Depth labels: official ground-truth files, or the LiDAR scan projected with occlusion removed."""
    depth_range: Range = (0.001, 100.0)
    """Depths kept, metres along the optical axis, exclusive."""
    min_points: int = Field(256, ge=1)
    """Fewest LiDAR points inside the image for a frame to be usable."""
    max_sync_ms: float = Field(50.0, gt=0)
    """Largest time difference between image and scan where both have timestamps, milliseconds."""
    occlusion_margin: float = Field(0.05, ge=0, lt=1)
    """A projected point is hidden when a neighbouring point is nearer by more than this share of its depth."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of frames that cannot be paired, 0–1; more stops the step."""
    rows_per_group: int = Field(16, ge=1, le=256)
    """Rows of one Parquet row group: the unit of shuffling and reading."""
    shard_mb: int = Field(384, ge=1)
    """Size at which a new shard file is begun, megabytes."""


class InputConfig(Section):
    """Which numbers the first convolution sees; stored inside the weights and checked at load."""

    channels: Literal["rgb", "bgr"] = "rgb"
    """Channel order."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted per channel, on the 0–255 scale, in `channels` order."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divisor per channel, on the 0–255 scale, in `channels` order."""


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


class AdamWConfig(Section):
    """AdamW."""

    lr: float = Field(gt=0)
    """Learning rate."""
    betas: tuple[float, float] = (0.95, 0.99)
    """Momentum and second-moment decay."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, on all parameters."""


class SGDConfig(Section):
    """SGD with momentum."""

    lr: float = Field(0.03, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay, on all parameters."""


class LoopConfig(Section):
    """What both training stages share."""

    epochs: int = Field(ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(ge=2)
    """Samples per optimiser step."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, sample order and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where there is one."""
    workers: int = Field(2, ge=0)
    """Loader processes, one thread each."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints that a killed run resumes from."""
    log_every: int = Field(10, ge=1)
    """Steps between logged training values."""


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


class DepthAugmentConfig(Section):
    """Augmentation of fine-tuning frames (reference section 5.4)."""

    fixed_crop: Literal["none", "kb", "nyu"] = "kb"
    """`kb`: the 352×1216 KITTI benchmark crop; `nyu`: rows 45–472, columns 43–608."""
    rotation_deg: float = Field(2.5, ge=0, le=45)
    """Largest rotation, degrees, applied with probability one half."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a left-right mirror."""
    crop: Size | None = (352, 704)
    """Random crop, height and width in pixels; null keeps the whole frame."""
    colour: float = Field(0.5, ge=0, le=1)
    """Probability of gamma, brightness and per-channel changes."""
    gamma: Range = (0.9, 1.1)
    """Exponent on 0–255 values."""
    brightness: Range = (0.9, 1.1)
    """Factor on all channels."""
    channel_gain: Range = (0.9, 1.1)
    """Factor on each channel."""


class OneCycleConfig(Section):
    """One-cycle learning-rate schedule, cosine both ways, betas not cycled (reference section 5.6)."""

    max_lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    start_div: float = Field(25.0, ge=1)
    """First learning rate is the peak divided by this."""
    final_div: float = Field(100.0, ge=1)
    """Last learning rate is the first divided by this."""
    warm_share: float = Field(0.3, gt=0, lt=1)
    """Share of the steps that climb."""


class FinetuneConfig(LoopConfig):
    """Monocular depth fine-tuning: ResNet, DenseDepth decoder, SigLoss."""

    epochs: int = Field(24, ge=1)
    """Passes over the depth frames."""
    batch_size: int = Field(16, ge=2)
    """Frames per optimiser step."""
    max_frames: int | None = Field(None, ge=1)
    """Use only this many training frames, evenly spread over the set; null uses all."""
    input: InputConfig = InputConfig()
    """Input convention of the depth net."""
    allow_input_mismatch: bool = False
    """Accept pre-trained weights made under another input convention (as the published runs did)."""
    encoder_name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Architecture; must equal the pre-trained encoder's."""
    scratch_control: bool = True
    """Also fine-tune the same net from random weights (Kaiming, zeroed residual branches), as the control."""
    decoder_channels: tuple[int, int, int, int] = (1024, 512, 256, 128)
    """Widths of the decoder's up-blocks, stride 16 to stride 2."""
    max_depth: float = Field(80.0, gt=0)
    """Largest depth the net can answer, metres."""
    min_depth: float = Field(1e-3, gt=0)
    """Smallest depth it answers at inference, metres."""
    input_scale: float = Field(1.0, gt=0, le=1)
    """Images are shrunk by this factor before the net; loss and metrics stay at full resolution."""
    augment: DepthAugmentConfig = DepthAugmentConfig()
    """Augmentation."""
    sig_lambda: float = Field(0.15, ge=0, le=1)
    """Weight of the squared mean in SigLoss."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay, on all parameters."""
    betas: tuple[float, float] = (0.95, 0.99)
    """AdamW betas."""
    schedule: OneCycleConfig = OneCycleConfig()
    """Learning-rate schedule."""
    clip_norm: float = Field(35.0, gt=0)
    """Largest gradient L2 norm."""


Protocol = Literal["garg_kb_crop", "garg_full_frame", "eigen_nyu", "whole_frame"]


class EvaluateConfig(Section):
    """Which numbers are computed and under which protocol."""

    protocols: tuple[Protocol, ...] = ("garg_kb_crop", "garg_full_frame")
    """Named protocols; the first one is the headline. `garg_kb_crop`: ground truth cropped to 352×1216, then
    the Garg fractions · `garg_full_frame`: Garg fractions of the full frame · `eigen_nyu`: rows 45–471, columns
    41–601 · `whole_frame`: every pixel with ground truth."""
    depth_range: Range = (1e-3, 80.0)
    """Ground-truth depths that count, metres, exclusive."""
    flip: bool = True
    """Average the prediction with that of the mirrored image."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where there is one."""
    panels: int = Field(4, ge=0)
    """Number of example pictures (image, ground truth or projected LiDAR, prediction) logged to MLflow."""

    @field_validator("protocols")
    @classmethod
    def _some_once(cls, value: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one protocol, each once")
        return value


class TrackingConfig(Section):
    """Where results are recorded."""

    mlflow_experiment: str = Field("simipu", min_length=1)
    """MLflow experiment that collects the runs."""
    model_name: str = Field("simipu-depth", min_length=1)
    """Registered model that gets a new version from every evaluated run."""


class Experiment(Section):
    """One experiment: everything that decides its numbers."""

    experiment: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name, shown in tables and in MLflow."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Synthetic world (used only by sources under data/raw)."""
    pretrain_data: SourceConfig = SourceConfig()
    """Source of the unlabelled image-LiDAR pairs."""
    depth_data: SourceConfig = SourceConfig()
    """Source of the depth frames for fine-tuning and evaluation."""
    pair: PairConfig = PairConfig()
    """Packing."""
    pretrain: PretrainConfig = PretrainConfig()
    """Pre-training."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation."""
    tracking: TrackingConfig = TrackingConfig()
    """Tracking."""

    @model_validator(mode="after")
    def _encoders_agree(self) -> Self:
        if self.pretrain.image_encoder.name != self.finetune.encoder_name:
            raise ValueError(
                f"finetune.encoder_name is {self.finetune.encoder_name} but pretrain.image_encoder.name is "
                f"{self.pretrain.image_encoder.name}: set both to the same architecture"
            )
        return self


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read and validate one experiment file.

    Args:
        path: YAML file, e.g. ``params.yaml`` or ``experiments/kitti_sample.yaml``.
        overrides: ``a.b=value`` settings applied on top; the value is read as YAML.

    Raises:
        SimipuError: the file is missing or not YAML, or a key or value is refused; the message names it.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SimipuError(f"{path}: no such experiment file; see experiments/ for the ready ones.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SimipuError(f"{path}: not readable as YAML ({_one_line(error)}); mend the file.") from None
    if not isinstance(values, dict):
        raise SimipuError(f"{path}: must hold `key: value` lines; copy params.yaml to begin.")
    for override in overrides or []:
        _apply(values, override)
    return validate(Experiment, values, str(path))


def validate(model: type[ModelT], values: Any, where: str) -> ModelT:
    """Validate plain values into a section, with errors in one sentence.

    Raises:
        SimipuError: naming `where`, the key, the value and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors()[:3])
        raise SimipuError(f"{where}: {problems}.") from None


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "experiment"
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}` (remove it or check its spelling; `simipu config --explain` lists all keys)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}`: {message} (got {problem['input']!r})"


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts):
        raise SimipuError(f"--set {override}: write it as section.key=value, e.g. finetune.epochs=3.")
    node = values
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise SimipuError(f"--set {override}: `{part}` is a value, not a section.")
        node = child
    try:
        node[parts[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SimipuError(f"--set {override}: the value is not YAML ({_one_line(error)}).") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
