"""Sections that both training stages share."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from simipu_core.config.section import Betas, Positive, Range, Section, Seed, Size


class InputConfig(Section):
    """Which numbers the first convolution sees; stored inside the weights and checked at load."""

    channels: Literal["rgb", "bgr"] = "rgb"
    """Channel order."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted per channel, on the 0–255 scale, in `channels` order."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """Divisor per channel, on the 0–255 scale, in `channels` order."""


class ColourConfig(Section):
    """Random change of an image's colours (docs/method.md, "Depth augmentation")."""

    colour: float = Field(0.5, ge=0, le=1)
    """Probability of gamma, brightness and per-channel changes."""
    gamma: Range = (0.9, 1.1)
    """Exponent on 0–255 values."""
    brightness: Range = (0.9, 1.1)
    """Factor on all channels."""
    channel_gain: Range = (0.9, 1.1)
    """Factor on each channel."""


Precision = Literal["fp32", "tf32", "bf16"]


class LoopConfig(Section):
    """What both training stages share."""

    epochs: int = Field(ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(ge=2)
    """Samples per optimiser step, over all ranks and micro-batches."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches in which each rank works through its share of a batch; each has BatchNorm statistics of its own."""
    source_weights: dict[str, Positive] | None = None
    """Share of an epoch's samples by source, in any unit, as in {kitti_object: 1, waymo: 3}; an epoch has as many
    samples as there are in all. null sees every sample once an epoch."""
    seed: Seed = 0
    """Seed of initial weights, sample order and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where there is one."""
    precision: Precision = "fp32"
    """Arithmetic of the networks. tf32: matrix products and convolutions are rounded to 10 bits on GPUs that can; bf16:
    automatic mixed precision, and tf32 for what stays fp32, as losses, weights and optimisers do."""
    deterministic: bool = False
    """Give the same bits in every run on the same GPU, for some of its speed. On a CPU runs do so anyway."""
    channels_last: bool = False
    """Keep images and feature maps in NHWC memory order, which suits GPUs."""
    compile: bool = False
    """Compile the networks with torch.compile; worth its minutes on long GPU runs. Each size of images is compiled by
    itself, 32 at most: in pre-training, a larger `image.pad_multiple`, as 128, keeps them few."""
    sync_norm: Literal["none", "image_encoder", "all"] = "none"
    """Which BatchNorm layers share their statistics over all ranks; others use their own rank's."""
    workers: int = Field(2, ge=0)
    """Loader processes a rank, one thread each."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints that a killed run resumes from; one more is written when a signal ends it."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    log_every: int = Field(10, ge=1)
    """Steps between logged training values."""
    divergence_factor: float = Field(20.0, gt=1)
    """Training stops when the loss exceeds its running average by this factor."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into accumulate={self.accumulate} micro-batches"
            )
        return self


def check_norm_values(micro_batch: int, size: Size, stride: int, wider: str) -> None:
    """Refuse a micro-batch of which BatchNorm, in training, would see a single value at the deepest feature map.

    Args:
        micro_batch: its samples.
        size: height and width of its images as the encoder sees them, pixels.
        stride: of the deepest feature map that is used, pixels.
        wider: the settings that make the images larger.

    Raises:
        ValueError: it sees one.
    """
    height, width = size
    if micro_batch == 1 and max(size) <= stride:
        raise ValueError(
            f"one sample a micro-batch and images of {height}×{width} pixels leave BatchNorm a feature map of 1×1 at "
            f"stride {stride}, a single value; lower accumulate, or raise {wider} beyond {stride} pixels"
        )


class AdamWConfig(Section):
    """AdamW."""

    kind: Literal["adamw"] = "adamw"
    """Tells the optimisers apart."""
    lr: float = Field(gt=0)
    """Learning rate."""
    betas: Betas = (0.95, 0.99)
    """Momentum and second-moment decay."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, on all parameters."""


class SGDConfig(Section):
    """SGD with momentum."""

    kind: Literal["sgd"] = "sgd"
    """Tells the optimisers apart."""
    lr: float = Field(0.03, gt=0)
    """Learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay, on all parameters."""


_Listed = AdamWConfig | SGDConfig
OPTIMIZERS: tuple[type[Section], ...] = get_args(_Listed)
Optimizer = Annotated[_Listed, Field(discriminator="kind")]
"""An optimiser of any kind."""
