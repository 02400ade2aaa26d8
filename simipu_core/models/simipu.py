"""SimIPU: the point encoder, the image encoder, three projection heads and two contrastive losses."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from simipu_core.config import PretrainConfig
from simipu_core.data.batches import PairBatch
from simipu_core.errors import SimipuError
from simipu_core.geometry.matching import match_points
from simipu_core.losses.info_nce import Contrast, info_nce
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
from simipu_core.models.key_sharing import KeyQueue, other_ranks
from simipu_core.models.point_encoder import PointEncoder, gather_rows
from simipu_core.models.projection import projection_head


@dataclass(frozen=True)
class SimIPUOutput:
    """Losses of one batch, and what they were computed from."""

    loss: Tensor
    intra: Contrast
    """Point ↔ point."""
    inter: Contrast
    """Pixel ↔ point."""
    centres: Tensor
    """(B, M, 3) metres, centres of the original view."""
    match_distance: Tensor
    """(B, M) metres between the points of a positive pair, un-augmented; NaN where there is none."""
    is_visible: Tensor
    """(B, M) bool."""
    embeddings: Tensor
    """(R, D) of the pixels in the inter-modal loss, detached."""


class SimIPU(nn.Module):
    """SimIPU (Li et al., AAAI 2022; reference sections 2 and 3).

    The point encoder learns from the point-point loss and, unless `stop_point_gradient` (published) is set, from the
    pixel-point loss; the image encoder from the pixel-point loss alone. Parameters that no loss reaches are marked as
    not trainable: the cross-modal point head under `stop_point_gradient`, ResNet stages beyond the sampled ones.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.contrast = config.contrast
        self.point_encoder = PointEncoder(config.point_encoder)
        self.normalize = Normalize(config.input)
        encoder = config.image_encoder
        self.image_encoder = image_encoder(encoder.name, norm_eps=encoder.norm_eps, norm_momentum=encoder.norm_momentum)
        initialise(self.image_encoder, encoder.name, encoder.init, encoder.init_file, config.input)
        self.levels = [STRIDES.index(stride) for stride in config.contrast.feature_strides]
        heads, points = config.heads, self.point_encoder.out_channels
        pixels = sum(feature_channels(self.image_encoder)[level] for level in self.levels)
        self.intra_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_point_head = projection_head(points, heads.point_hidden, heads.out_channels)
        self.cross_image_head = projection_head(pixels, heads.image_hidden, heads.out_channels)
        if self.contrast.stop_point_gradient:
            self.cross_point_head.requires_grad_(False)
        for module in unused_modules(self.image_encoder, max(self.levels) + 1):
            module.requires_grad_(False)

        contrast = self.contrast
        branch = nn.ModuleList([self.point_encoder, self.intra_head])
        self.slow_points = None if contrast.momentum_keys is None else moving_average(branch, contrast.momentum_keys)
        self.queue = KeyQueue(contrast.queue_size, heads.out_channels) if contrast.queue_size else None
        self.averaged_encoder = None if config.ema is None else moving_average(self.image_encoder, config.ema)

    def forward(self, batch: PairBatch) -> SimIPUOutput:
        """Losses of a batch; negatives are shared by `contrast.group_size` samples."""
        points, rows = self.point_encoder(batch.original)
        centres = gather_rows(batch.original.xyz, rows)
        key_encoder, key_head = self._key_branch()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.contrast.symmetric_intra):
            key_points, key_rows = key_encoder(batch.augmented)
            partners = gather_rows(batch.augmented_location, key_rows)
            match = self._match(centres, partners) if batch.match is None else batch.match
            is_matched = match >= 0
            match = match.clamp(min=0)
            keys = key_head(gather_rows(key_points, match)[is_matched])
        distance = (centres - gather_rows(partners, match)).norm(dim=-1).masked_fill(~is_matched, torch.nan)
        intra = self._contrast(
            self.intra_head(points[is_matched]),
            keys,
            is_matched,
            symmetric=self.contrast.symmetric_intra,
            queue=self.queue,
        )

        pixels = gather_rows(batch.pixels, rows)
        is_visible = batch.is_visible.gather(1, rows)
        is_kept = is_visible if self.contrast.drop_invisible else torch.ones_like(is_visible)
        if self.contrast.stop_point_gradient:
            points = points.detach()
        features = self.pixel_features(self.image_encoder, batch.images, pixels, batch.image_sizes)
        queries = self.cross_image_head(features[is_kept])
        keys = self.cross_point_head(points[is_kept])
        inter = self._contrast(queries, keys, is_kept, symmetric=self.contrast.symmetric_inter)
        loss = self.contrast.inter_weight * inter.loss + self.contrast.intra_weight * intra.loss
        return SimIPUOutput(loss, intra, inter, centres, distance, is_visible, queries.detach())

    @torch.no_grad()
    def update_averages(self) -> None:
        """Move the averaged encoder and the slow point branch towards the trained ones; call after each step."""
        if self.averaged_encoder is not None:
            self.averaged_encoder.update_parameters(self.image_encoder)
        if self.slow_points is not None:
            self.slow_points.update_parameters(nn.ModuleList([self.point_encoder, self.intra_head]))

    @property
    def final_encoder(self) -> nn.Module:
        """The image encoder to hand out: the averaged one where there is one."""
        encoder: nn.Module = self.image_encoder if self.averaged_encoder is None else self.averaged_encoder.module
        return encoder

    def _key_branch(self) -> tuple[nn.Module, nn.Module]:
        if self.slow_points is None:
            return self.point_encoder, self.intra_head
        encoder, head = self.slow_points.module.children()
        return encoder, head

    def _match(self, centres: Tensor, partners: Tensor) -> Tensor:
        """Positives between centres that were picked by learnt features."""
        pairs = zip(centres.cpu().numpy(), partners.cpu().numpy(), strict=True)
        matches = [match_points(a, b, self.contrast.pairing) for a, b in pairs]
        return torch.from_numpy(np.stack(matches)).to(centres.device)

    def pixel_features(self, encoder: nn.Module, images: Tensor, pixels: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Features of all sampled maps at pixels.

        Args:
            encoder: the image encoder to use.
            images: (B, 3, H, W) uint8 RGB.
            pixels: (B, M, 2) u, v.
            sizes: (B, 2) height and width of each image without its padding; None where there is none.

        Returns:
            (B, M, C).
        """
        shown = self.normalize(images)
        extent = images.new_tensor(images.shape[-2:], dtype=torch.float32)
        if sizes is not None:
            shown = shown * _inside(images, sizes)
            if self.contrast.sampling_extent == "image":
                multiple = self.config.image.pad_multiple
                extent = ((sizes + multiple - 1) // multiple * multiple).float()
        maps = feature_maps(encoder, shown, max(self.levels) + 1)
        align = self.contrast.feature_sampling == "align_corners"
        sampled = [sample_features(maps[level].float(), pixels, extent, align_corners=align) for level in self.levels]
        return torch.cat(sampled, dim=-1)

    def _contrast(
        self, queries: Tensor, keys: Tensor, is_kept: Tensor, *, symmetric: bool, queue: KeyQueue | None = None
    ) -> Contrast:
        """InfoNCE within groups of samples, averaged over groups; rows are those of `is_kept` (B, M)."""
        contrast = self._one_way(queries, keys, is_kept, queue)
        if symmetric:
            reverse = self._one_way(keys, queries, is_kept, None)
            contrast = contrast._replace(loss=(contrast.loss + reverse.loss) / 2)
        if queue is not None and self.training:
            queue.push(keys)
        return contrast

    def _one_way(self, queries: Tensor, keys: Tensor, is_kept: Tensor, queue: KeyQueue | None) -> Contrast:
        negatives = [queue.keys.clone()] if queue is not None else []
        if self.contrast.gather_negatives:
            negatives.append(other_ranks(keys))
        rows = [int(group.sum()) for group in torch.split(is_kept, self.contrast.group_size)]
        groups = [
            info_nce(
                q,
                k,
                self.contrast.temperature,
                negatives=torch.cat(negatives) if negatives else None,
                chunk_rows=self.contrast.chunk_rows,
            )
            for q, k in zip(torch.split(queries, rows), torch.split(keys, rows), strict=True)
            if len(q)
        ]
        if not groups:
            raise SimipuError(
                "no positive pair is left in a batch; widen pretrain.points.point_range or check the calibration."
            )
        return Contrast(*(torch.stack(values).mean() for values in zip(*groups, strict=True)))


def _inside(images: Tensor, sizes: Tensor) -> Tensor:
    """(B, 1, H, W) bool: where padded images are not padding."""
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    return ((rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None]))[:, None]


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A copy that follows a module's parameters and statistics exponentially, and is never trained itself."""
    average = AveragedModel(
        module,
        multi_avg_fn=get_ema_multi_avg_fn(decay),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    return average.requires_grad_(False)
