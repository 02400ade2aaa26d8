"""The depth net: normalisation, ResNet encoder, DenseDepth decoder, bounded depth."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from simipu_core.config import FinetuneConfig, InputConfig, Section
from simipu_core.config.section import Positive, Range, Size
from simipu_core.errors import SimipuError
from simipu_core.models.depth_decoder import DecoderSpec, DepthDecoder
from simipu_core.models.image_encoder import Normalize, feature_channels, image_encoder
from simipu_core.models.initialise import initialise
from simipu_core.models.weights import load_weights, read_spec, save_weights


class TrainingCameras(Section):
    """The cameras whose frames a depth net was trained on, in pixels of their frames before crop and `input_scale`.

    `size`, `fx` and `fy` are those of one camera, the one with the median focal length; the ranges are over all frames.
    """

    size: Size
    """Height and width."""
    fx: Positive
    fy: Positive
    focal_range: Range
    """Smallest and largest focal length; the mean of fx and fy each."""
    side_range: Range
    """Side of a square with as many pixels as the smallest and as the largest frame."""


class DepthNetSpec(Section):
    """Everything needed to build a depth net and to feed it; stored inside its weights file."""

    kind: Literal["depth_net"] = "depth_net"
    encoder_name: str
    norm_eps: float = 1e-5
    """BatchNorm epsilon of the encoder, whatever it was pre-trained with: the published fine-tuning uses 1e-5 on
    weights made under 1e-3 (docs/method.md, "Image encoder"). By our own defaults both stages use 1e-5."""
    decoder_channels: tuple[int, int, int, int]
    input: InputConfig
    fixed_crop: Literal["none", "kb"]
    """Part of the frame the net is shown."""
    input_scale: float
    """Factor by which that part is shrunk first."""
    min_depth: float
    max_depth: float
    """Depth bounds, metres."""
    cameras: TrainingCameras | None = None
    """None: not known, as in files of older versions."""


class DepthNet(nn.Module):
    """Monocular depth (docs/method.md, "Depth net"); 77,770,689 parameters for ResNet-50."""

    def __init__(self, spec: DepthNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = Normalize(spec.input)
        self.encoder = image_encoder(spec.encoder_name, norm_eps=spec.norm_eps)
        self.decoder = DepthDecoder(feature_channels(self.encoder), spec.decoder_channels)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), 0–255 → depth (B, 1, ~H/2, ~W/2), metres in (0, max_depth)."""
        logits: Tensor = self.decoder(self.encoder(self.normalize(images)))
        return torch.sigmoid(logits.float()) * self.spec.max_depth


def build_depth_net(
    config: FinetuneConfig, encoder_weights: Path | None, *, cameras: TrainingCameras | None = None
) -> DepthNet:
    """A depth net ready for fine-tuning, its encoder initialised as `config.init` says, and its decoder by `start`.

    The decoder's random weights do not depend on where the encoder's come from.

    Args:
        config: sizes, conventions and the encoder's start.
        encoder_weights: ``encoder.safetensors`` of the pre-training, if and only if `config.init` is `pretrained`;
            loaded strictly. With `config.start` at `encoder_and_decoder`, ``decoder.safetensors`` lies beside it.
        cameras: of the frames that it is trained on; they are stored with its weights.

    Raises:
        SimipuError: encoder weights are missing or out of place; or they are of another architecture, or of another
            input convention without ``finetune.allow_input_mismatch``, or a tensor is missing or unexpected.
    """
    spec = DepthNetSpec(
        encoder_name=config.encoder_name,
        decoder_channels=config.decoder_channels,
        input=config.input,
        fixed_crop="kb" if config.augment.fixed_crop == "kb" else "none",
        input_scale=config.input_scale,
        min_depth=config.min_depth,
        max_depth=config.max_depth,
        cameras=cameras,
    )
    if config.init != "pretrained" and encoder_weights:
        raise SimipuError(
            f"{encoder_weights}: is given, but finetune.init is `{config.init}`, which takes no pre-trained encoder; "
            "leave --encoder out or set finetune.init to `pretrained`."
        )
    if config.init == "pretrained" and not encoder_weights:
        raise SimipuError(
            "finetune.init is `pretrained`, but there is no pre-trained encoder; give one with --encoder, or set "
            "finetune.init to another start, such as kaiming_zero_gamma."
        )
    net = DepthNet(spec)
    file = str(encoder_weights) if encoder_weights else config.init_file
    allow = config.allow_input_mismatch
    initialise(net.encoder, config.encoder_name, config.init, file, config.input, allow_input_mismatch=allow)
    if config.start == "encoder_and_decoder" and encoder_weights:
        _load_decoder(net, encoder_weights.with_name("decoder.safetensors"))
    return net


def _load_decoder(net: DepthNet, file: Path) -> None:
    if not file.is_file():
        raise SimipuError(
            f"{file}: pre-training left no decoder; set finetune.start to encoder, or pretrain.objective to "
            "lidar_depth or both."
        )
    given, spec = read_spec(file, DecoderSpec), net.spec
    wanted = DecoderSpec(
        encoder_name=spec.encoder_name,
        channels=spec.decoder_channels,
        max_depth=spec.max_depth,
        image_scale=spec.input_scale,
    )
    for name, value in given:
        if value != getattr(wanted, name):
            other = getattr(wanted, name)
            raise SimipuError(f"{file}: pre-trained with {name} {value}, fine-tuning has {other}; set both alike.")
    load_weights(net.decoder, file)


def save_depth_net(net: DepthNet, file: Path) -> None:
    """Write a depth net and its spec as safetensors."""
    save_weights(net, file, net.spec)


def load_depth_net(file: Path, device: str = "cpu") -> DepthNet:
    """Read a depth net back, in evaluation mode.

    Raises:
        SimipuError: not a depth net's weights, or a tensor is missing or unexpected.
    """
    net = DepthNet(read_spec(file, DepthNetSpec))
    load_weights(net, file)
    return net.to(device).eval()
