"""SimIPU: the point encoder, the image encoder, three projection heads and two contrastive losses."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from simipu_core.config import ContrastConfig, PretrainConfig
from simipu_core.data.views import PairBatch
from simipu_core.errors import SimipuError
from simipu_core.losses.info_nce import Contrast, info_nce
from simipu_core.models.image_encoder import STRIDES, Normalize, feature_channels, image_encoder
from simipu_core.models.point_encoder import PointEncoder, gather_rows
from simipu_core.models.projection import projection_head


@dataclass(frozen=True)
class SimIPUOutput:
    """Losses of one batch."""

    loss: Tensor
    intra: Contrast
    """Point ↔ point."""
    inter: Contrast
    """Pixel ↔ point."""


class SimIPU(nn.Module):
    """SimIPU (Li et al., AAAI 2022; reference sections 2 and 3).

    Gradients: the point encoder learns from the original view of the intra-modal loss, the image encoder from the
    inter-modal loss. With `stop_point_gradient` (published) nothing else flows, and the cross-modal point head
    keeps its random weights.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.contrast = config.contrast
        self.point_encoder = PointEncoder(config.point_encoder)
        self.normalize = Normalize(config.input)
        encoder = config.image_encoder
        self.image_encoder = image_encoder(
            encoder.name, encoder.init, norm_eps=encoder.norm_eps, norm_momentum=encoder.norm_momentum
        )
        self.level = STRIDES.index(config.contrast.feature_stride)
        heads, points = config.heads, self.point_encoder.out_channels
        pixels = feature_channels(self.image_encoder)[self.level]
        self.intra_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_point_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_image_head = projection_head(pixels, heads.image_hidden, heads.out_channels)

    def forward(self, batch: PairBatch) -> SimIPUOutput:
        """Losses of a batch; negatives are shared by `contrast.group_size` samples."""
        original, augmented = batch.original, batch.augmented
        point_features = self.point_encoder(original.xyz, original.features, original.neighbours)
        moved_features = self.point_encoder(augmented.xyz, augmented.features, augmented.neighbours)
        is_matched = batch.match >= 0
        intra = self._contrast(
            self.intra_head(point_features[is_matched]),
            self.intra_head(gather_rows(moved_features, batch.match.clamp(min=0))[is_matched]).detach(),
            is_matched,
        )

        maps = self.image_encoder(self._images(batch))[self.level]
        pixel_features = sample_features(maps, batch.pixels, batch.images.shape[-2:], self.contrast)
        is_kept = batch.is_visible if self.contrast.drop_invisible else torch.ones_like(batch.is_visible)
        if self.contrast.stop_point_gradient:
            point_features = point_features.detach()
        point_keys = self.cross_point_head(point_features[is_kept])
        pixel_queries = self.cross_image_head(pixel_features[is_kept])
        if self.contrast.stop_point_gradient:
            point_keys = point_keys.detach()
        inter = self._contrast(pixel_queries, point_keys, is_kept)
        if self.contrast.symmetric_inter:
            reverse = self._contrast(point_keys, pixel_queries, is_kept)
            inter = Contrast((inter.loss + reverse.loss) / 2, inter.top1, inter.top5)
        loss = self.contrast.inter_weight * inter.loss + self.contrast.intra_weight * intra.loss
        return SimIPUOutput(loss, intra, inter)

    def _images(self, batch: PairBatch) -> Tensor:
        """Normalised images, zero in the padding."""
        height, width = batch.images.shape[-2:]
        rows = torch.arange(height, device=batch.images.device)
        columns = torch.arange(width, device=batch.images.device)
        inside = (rows[:, None] < batch.image_sizes[:, 0, None, None]) & (columns < batch.image_sizes[:, 1, None, None])
        images: Tensor = self.normalize(batch.images)
        return images * inside[:, None]

    def _contrast(self, queries: Tensor, keys: Tensor, is_kept: Tensor) -> Contrast:
        """InfoNCE within groups of samples, averaged over groups; rows are those of `is_kept` (B, M)."""
        rows = [int(group.sum()) for group in torch.split(is_kept, self.contrast.group_size)]
        groups = [
            info_nce(q, k, self.contrast.temperature)
            for q, k in zip(torch.split(queries, rows), torch.split(keys, rows), strict=True)
            if len(q)
        ]
        if not groups:
            raise SimipuError(
                "no positive pair is left in a batch; widen pretrain.points.point_range or check the calibration."
            )
        return Contrast(
            torch.stack([group.loss for group in groups]).mean(),
            torch.stack([group.top1 for group in groups]).mean(),
            torch.stack([group.top5 for group in groups]).mean(),
        )


def sample_features(maps: Tensor, pixels: Tensor, size: torch.Size | tuple[int, int], config: ContrastConfig) -> Tensor:
    """Bilinear features at pixels, zero outside the map (reference section 1.4).

    Args:
        maps: (B, C, h, w) features of the padded images.
        pixels: (B, M, 2) u, v in the padded images.
        size: height and width of the padded images.
        config: `align_corners` stretches the image corner to corner over the map, so that column = u / W · (w - 1)
            (published); `half_pixel` puts pixel centres where the strides put them.

    Returns:
        (B, M, C).
    """
    height, width = size
    extent = pixels.new_tensor([width, height])
    align = config.feature_sampling == "align_corners"
    grid = 2 * (pixels if align else pixels + 0.5) / extent - 1
    sampled = F.grid_sample(maps, grid[:, None], mode="bilinear", padding_mode="zeros", align_corners=align)
    return sampled[:, :, 0].transpose(1, 2)
