"""Sections that both training stages share."""

from typing import Literal

from pydantic import Field

from simipu_core.config.section import Section


class InputConfig(Section):
    """Which numbers the first convolution sees; stored inside the weights and checked at load."""

    channels: Literal["rgb", "bgr"] = "rgb"
    """Channel order."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted per channel, on the 0–255 scale, in `channels` order."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divisor per channel, on the 0–255 scale, in `channels` order."""


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
