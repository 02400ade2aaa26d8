"""SimIPU: the point encoder, the image encoder, three projection heads and two contrastive losses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simipu_core.config import PretrainConfig
from simipu_core.data.batches import PairBatch
from simipu_core.errors import SimipuError
from simipu_core.geometry.matching import match_points
from simipu_core.losses.info_nce import Contrast, info_nce
from simipu_core.models.image_branch import ImageBranch, LidarDepth, PretrainingOutput
from simipu_core.models.image_encoder import feature_channels
from simipu_core.models.point_encoder import PointEncoder, gather_rows
from simipu_core.models.projection import projection_head


@dataclass(frozen=True)
class SimIPUOutput(PretrainingOutput):
    """Losses of one batch, and what they were computed from."""

    centres: Tensor
    """(B, M, 3) metres, centres of the original view."""
    match_distance: Tensor
    """(B, M) metres between the points of a positive pair, un-augmented; NaN where there is none."""
    is_visible: Tensor
    """(B, M) bool."""
    embeddings: Tensor
    """(R, D) of the pixels in the inter-modal loss, detached."""


class SimIPU(ImageBranch):
    """SimIPU (Li et al., AAAI 2022; docs/method.md, "In short" and "Losses").

    The point encoder learns from the point-point loss and, unless `stop_point_gradient` (published) is set, from the
    pixel-point loss; the image encoder from the pixel-point loss alone. Parameters that no loss reaches are marked as
    not trainable: the cross-modal point head under `stop_point_gradient`, ResNet stages beyond the sampled ones.
    """

    def __init__(self, config: PretrainConfig) -> None:
        point_encoder = PointEncoder(config.point_encoder)  # draws its weights first
        super().__init__(config)
        self.point_encoder = point_encoder
        heads, points = config.heads, self.point_encoder.out_channels
        pixels = sum(feature_channels(self.image_encoder)[level] for level in self.levels)
        self.intra_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_point_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_image_head = projection_head(pixels, heads.image_hidden, heads.out_channels)
        if self.contrast.stop_point_gradient:
            self.cross_point_head.requires_grad_(False)

    def forward(self, batch: PairBatch) -> SimIPUOutput:
        """Losses of a batch; negatives are shared by `contrast.group_size` samples."""
        points, rows = self.point_encoder(batch.original)
        centres = gather_rows(batch.original.xyz, rows)
        with torch.no_grad():  # the original view alone learns, its keys are fixed
            key_points, key_rows = self.point_encoder(batch.augmented)
            partners = gather_rows(batch.augmented_location, key_rows)
            match = self._match(centres, partners) if batch.match is None else batch.match
            is_matched = match >= 0
            match = match.clamp(min=0)
        distance = (centres - gather_rows(partners, match)).norm(dim=-1).masked_fill(~is_matched, torch.nan)
        queries = self.intra_head(points[is_matched])  # before the keys, as published: BatchNorm remembers the order
        with torch.no_grad():
            keys = self.intra_head(gather_rows(key_points, match)[is_matched])
        intra = self._contrast(queries, keys, is_matched)

        pixels = gather_rows(batch.pixels, rows)
        is_visible = batch.is_visible.gather(1, rows)
        is_kept = is_visible if self.contrast.drop_invisible else torch.ones_like(is_visible)
        if self.contrast.stop_point_gradient:
            points = points.detach()
        maps = self.maps(batch.images, batch.image_sizes)
        features = self.at_pixels(maps, pixels, self.extent(batch))
        queries = self.cross_image_head(features[is_kept])
        keys = self.cross_point_head(points[is_kept])
        inter = self._contrast(queries, keys, is_kept)
        if self.contrast.symmetric_inter:
            reverse = self._contrast(keys, queries, is_kept)
            inter = inter._replace(loss=(inter.loss + reverse.loss) / 2)

        terms = {"intra": intra.term(self.contrast.intra_weight), "inter": inter.term(self.contrast.inter_weight)}
        if batch.depth is not None:
            terms["lidar_depth"] = self.lidar_depth(maps, batch.depth)
        return SimIPUOutput(terms, centres, distance, is_visible, queries.detach())

    def _match(self, centres: Tensor, partners: Tensor) -> Tensor:
        """Positives between centres that were picked by learnt features."""
        pairs = zip(centres.cpu().numpy(), partners.cpu().numpy(), strict=True)
        matches = [match_points(a, b, self.contrast.pairing) for a, b in pairs]
        return torch.from_numpy(np.stack(matches)).to(centres.device)

    def extent(self, batch: PairBatch) -> Tensor:
        """Height and width that the feature maps are taken to cover, (2,) or (B, 2)."""
        if self.contrast.sampling_extent == "batch":
            return batch.images.new_tensor(batch.images.shape[-2:], dtype=torch.float32)
        multiple = self.config.image.pad_multiple
        return ((batch.image_sizes + multiple - 1) // multiple * multiple).float()

    def _contrast(self, queries: Tensor, keys: Tensor, is_kept: Tensor) -> Contrast:
        """InfoNCE within groups of samples, averaged over groups; rows are those of `is_kept` (B, M)."""
        rows = [int(group.sum()) for group in torch.split(is_kept, self.contrast.group_size)]
        groups = [
            info_nce(q, k, self.contrast.temperature, chunk_rows=self.contrast.chunk_rows)
            for q, k in zip(torch.split(queries, rows), torch.split(keys, rows), strict=True)
            if len(q)
        ]
        if not groups:
            raise SimipuError(
                "no positive pair is left in a batch; widen pretrain.points.point_range or check the calibration."
            )
        return Contrast(*(torch.stack(values).mean() for values in zip(*groups, strict=True)))


def pretraining_model(config: PretrainConfig) -> SimIPU | LidarDepth:
    """What learns by the configured objective."""
    return SimIPU(config) if config.has_contrast else LidarDepth(config)
