"""The image side of pre-training, which all objectives share: the encoder, its pixel features, a depth decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simipu_core.config import PretrainConfig
from simipu_core.data.batches import ScanDepthBatch
from simipu_core.losses.sig_loss import at_size_of, sig_loss
from simipu_core.losses.terms import LossTerm, weighted_sum
from simipu_core.models.depth_decoder import DecoderSpec, DepthDecoder
from simipu_core.models.image_encoder import (
    STRIDES,
    Normalize,
    feature_channels,
    feature_maps,
    image_encoder,
    sample_features,
    unused_modules,
)
from simipu_core.models.initialise import initialise
from simipu_core.models.weights import EncoderSpec, save_weights


@dataclass(frozen=True)
class PretrainingOutput:
    """Losses of one batch."""

    terms: Mapping[str, LossTerm]
    """`intra`, point ↔ point, `inter`, pixel ↔ point, and `lidar_depth`, as far as they are learnt from."""

    @property
    def loss(self) -> Tensor:
        """Their weighted sum."""
        return weighted_sum(self.terms)


class ImageBranch(nn.Module):
    """Normalisation, image encoder and, where the objective has one, the depth decoder.

    Stages of the encoder that nothing learns from are marked as not trainable.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.contrast = config.contrast
        self.normalize = Normalize(config.input)
        encoder = config.image_encoder
        self.image_encoder = image_encoder(encoder.name, norm_eps=encoder.norm_eps, norm_momentum=encoder.norm_momentum)
        initialise(self.image_encoder, encoder.name, encoder.init, encoder.init_file, config.input)
        self.levels = [STRIDES.index(stride) for stride in config.contrast.feature_strides]
        self.decoder: DepthDecoder | None = None
        self.num_maps = max(self.levels) + 1
        if config.has_decoder:
            self.decoder = DepthDecoder(feature_channels(self.image_encoder), config.lidar_depth.decoder_channels)
            self.num_maps = len(STRIDES)
        for module in unused_modules(self.image_encoder, self.num_maps):
            module.requires_grad_(False)

    def maps(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Feature maps of padded images, stride 2 upwards, as many as the objective needs.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            sizes: (B, 2) height and width of each image without its padding; None where there is none.
        """
        normalized = self.normalize(images)
        if sizes is not None:
            normalized = normalized * _inside(images, sizes)
        return feature_maps(self.image_encoder, normalized, self.num_maps)

    def at_pixels(self, maps: Sequence[Tensor], pixels: Tensor, extent: Tensor) -> Tensor:
        """Features of all maps that the contrast samples.

        Args:
            maps: of :meth:`maps`.
            pixels: (B, M, 2) u, v.
            extent: (2,) or (B, 2) height and width that the maps are taken to cover.

        Returns:
            (B, M, C).
        """
        align = self.contrast.feature_sampling == "align_corners"
        sampled = [sample_features(maps[level].float(), pixels, extent, align_corners=align) for level in self.levels]
        return torch.cat(sampled, dim=-1)

    def pixel_features(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Features (B, M, C) of unpadded images (B, 3, H, W) at pixels (B, M, 2): what the linear probe looks at."""
        extent = images.new_tensor(images.shape[-2:], dtype=torch.float32)
        return self.at_pixels(self.maps(images), pixels, extent)

    def lidar_depth(self, maps: Sequence[Tensor], depth: Tensor) -> LossTerm:
        """SigLoss of the decoded depth against the scan's, with its Abs Rel (docs/method.md, "LiDAR depth").

        Args:
            maps: of :meth:`maps`, all of them.
            depth: (B, 1, H, W) metres, 0 where there is none.
        """
        assert self.decoder is not None  # noqa: S101 (the objective has one)
        config = self.config.lidar_depth
        prediction = at_size_of(depth, torch.sigmoid(self.decoder(maps).float()) * config.max_depth)
        measured = depth > 0
        with torch.no_grad():
            error = ((prediction - depth).abs()[measured] / depth[measured]).mean()
        return LossTerm(sig_loss(prediction, depth, config.sig_lambda), config.weight, {"abs_rel": error})


class LidarDepth(ImageBranch):
    """Pre-training on the scans' depth alone (docs/method.md, "LiDAR depth")."""

    def forward(self, batch: ScanDepthBatch) -> PretrainingOutput:
        """The loss of a batch."""
        assert batch.depth is not None  # noqa: S101 (the views make it for this objective)
        return PretrainingOutput(
            {"lidar_depth": self.lidar_depth(self.maps(batch.images, batch.image_sizes), batch.depth)}
        )


def _inside(images: Tensor, sizes: Tensor) -> Tensor:
    """(B, 1, H, W) bool: where padded images are not padding."""
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    return ((rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None]))[:, None]


def save_encoder(model: ImageBranch, file: Path) -> None:
    """Write the image encoder alone, with what it was trained to see, as safetensors."""
    encoder = model.config.image_encoder
    spec = EncoderSpec(name=encoder.name, norm_eps=encoder.norm_eps, input=model.config.input)
    save_weights(model.image_encoder, file, spec)


def save_decoder(decoder: DepthDecoder, config: PretrainConfig, file: Path) -> None:
    """Write the depth decoder alone, with what its answers mean, as safetensors."""
    depth = config.lidar_depth
    spec = DecoderSpec(
        encoder_name=config.image_encoder.name,
        channels=depth.decoder_channels,
        max_depth=depth.max_depth,
        image_scale=depth.image_scale,
    )
    save_weights(decoder, file, spec)
