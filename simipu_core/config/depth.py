"""Sections of depth fine-tuning and evaluation."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from simipu_core.config.backbones import BackboneName
from simipu_core.config.section import Address, Betas, DecoderChannels, DepthRange, Section, Size
from simipu_core.config.training import ColourConfig, InputConfig, LoopConfig, check_norm_values


class DepthAugmentConfig(ColourConfig):
    """Augmentation of fine-tuning frames (docs/method.md, "Depth augmentation")."""

    fixed_crop: Literal["none", "kb", "nyu"] = "kb"
    """`kb`: the 352×1216 KITTI benchmark crop; `nyu`: rows 45–472, columns 43–608. Left out, and so with `crop`, it is
    that of the camera of `depth_data`: `kb` for KITTI, `nyu` for NYU, `none` for any other."""
    rotation_deg: float = Field(2.5, ge=0, le=45)
    """Largest rotation, degrees, applied with probability one half."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a left-right mirror."""
    crop: Size | None = (352, 704)
    """Random crop, height and width in pixels; null keeps the whole frame. NYU: 416×544; other cameras: 352×640."""


class OneCycleConfig(Section):
    """One-cycle learning-rate schedule, cosine both ways, betas not cycled (docs/method.md, "Fine-tuning schedule")."""

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

    epochs: int = Field(24, ge=0)
    """Passes over the depth frames; 0 takes the net as pre-training on LiDAR depth left it, without any label."""
    batch_size: int = Field(16, ge=2)
    """Frames per optimiser step."""
    max_frames: int | None = Field(None, ge=1)
    """Use only this many training frames, evenly spread over the set; null uses all."""
    input: InputConfig = InputConfig()
    """Input convention of the depth net."""
    allow_input_mismatch: bool = False
    """Accept pre-trained weights made under another input convention (as the published runs did)."""
    encoder_name: BackboneName = "resnet50"
    """Architecture; must equal the pre-trained encoder's."""
    init: Literal["pretrained", "kaiming_zero_gamma", "torch_default", "imagenet", "checkpoint"] = "pretrained"
    """Where the encoder's weights come from. `pretrained`: the pre-training step · `kaiming_zero_gamma`: random,
    Kaiming normal with zeroed residual branches (the published scratch rows) · `torch_default`: random, PyTorch's
    defaults (what a checkpoint that silently does not load leaves behind) · `imagenet`: timm's torchvision V1
    weights, from `init_file` where it is set · `checkpoint`: `init_file`. All but the first need no pre-training."""
    init_file: Address | None = None
    """Weights file for `imagenet` or `checkpoint`, also s3://… or hf://OWNER/NAME@REVISION/FILE#SHA256: .safetensors,
    or .pth (read as plain tensors only); key layouts of SimIPU, torchvision, timm and OpenMMLab are recognised."""
    start: Literal["encoder", "encoder_and_decoder"] = "encoder"
    """What is taken over from pre-training; the decoder is there where `pretrain.objective` trains one."""
    encoder_lr_scale: float = Field(1.0, gt=0)
    """Factor on the encoder's learning rates."""
    scratch_control: bool = True
    """Also fine-tune the same net from random weights (PyTorch's defaults, from which pre-training starts), as the
    control; a net that itself starts from random weights has none."""
    decoder_channels: DecoderChannels = (1024, 512, 256, 128)
    """Widths of the decoder's up-blocks, stride 16 to stride 2."""
    max_depth: float = Field(80.0, gt=0)
    """Largest depth the net can answer, metres."""
    ignore_beyond: bool = True
    """Leave labels beyond `max_depth` out of the loss: the net cannot answer so. Published: they take part."""
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
    betas: Betas = (0.95, 0.99)
    """AdamW betas."""
    schedule: OneCycleConfig = OneCycleConfig()
    """Learning-rate schedule."""
    clip_norm: float = Field(35.0, gt=0)
    """Largest gradient L2 norm."""

    @model_validator(mode="after")
    def _checkpoint_is_named(self) -> Self:
        if self.init == "checkpoint" and self.init_file is None:
            raise ValueError("init is `checkpoint`: name the weights in init_file")
        return self

    @model_validator(mode="after")
    def _something_was_trained(self) -> Self:
        if self.start == "encoder_and_decoder" and not self.needs_pretraining:
            raise ValueError(f"start encoder_and_decoder needs init pretrained; init is {self.init}")
        if self.epochs == 0 and self.start == "encoder":
            raise ValueError("epochs is 0: set start to encoder_and_decoder, or the decoder keeps its random weights")
        return self

    @model_validator(mode="after")
    def _depths_ascend(self) -> Self:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth:g} is not below max_depth {self.max_depth:g}")
        return self

    @model_validator(mode="after")
    def _norms_see_values(self) -> Self:
        if crop := self.augment.crop:
            micro_batch, size = self.batch_size // self.accumulate, self.shown_size(crop)
            check_norm_values(micro_batch, size, 32, "augment.crop or input_scale")
        return self

    @model_validator(mode="after")
    def _frames_fill_a_batch(self) -> Self:
        if self.max_frames is not None and self.max_frames < self.batch_size:
            raise ValueError(f"max_frames {self.max_frames} do not fill one batch of batch_size {self.batch_size}")
        return self

    def shown_size(self, crop: Size) -> Size:
        """Height and width at which the net is shown a crop, pixels."""
        height, width = (max(1, round(side * self.input_scale)) for side in crop)
        return height, width

    @property
    def needs_pretraining(self) -> bool:
        """Whether the encoder comes from the pre-training step."""
        return self.init == "pretrained"

    @property
    def needs_control(self) -> bool:
        """Whether the control is trained too."""
        return self.scratch_control and self.epochs > 0 and self.init not in ("torch_default", "kaiming_zero_gamma")


Protocol = Literal["garg_kb_crop", "garg_full_frame", "eigen_nyu", "whole_frame"]


class EvaluateConfig(Section):
    """Which numbers are computed and under which protocol."""

    protocols: tuple[Protocol, ...] = ("garg_kb_crop", "garg_full_frame")
    """Named protocols; the first one is the headline. `garg_kb_crop`: ground truth cropped to 352×1216, then
    the Garg fractions · `garg_full_frame`: Garg fractions of the full frame · `eigen_nyu`: rows 45–471, columns
    41–601 · `whole_frame`: every pixel with ground truth. Left out, they are those of the camera of `depth_data`:
    KITTI's, `eigen_nyu`, or, for any other, `whole_frame`."""
    depth_range: DepthRange = (1e-3, 80.0)
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
