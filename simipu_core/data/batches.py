"""Batches: what the loader's workers hand to the training step. Shapes are those of the tensors."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Level:
    """Centres and neighbourhoods of one set-abstraction level; rows are those of the level's input."""

    centres: Tensor
    """(B, M) int64."""
    neighbours: list[Tensor]
    """Per radius (B, M, K) int32."""


@dataclass(frozen=True)
class PointView:
    """One view of a point cloud, in random order."""

    xyz: Tensor
    """(B, N, 3) float32, metres in the sensor frame (of this view)."""
    features: Tensor
    """(B, N, C) float32, raw point features."""
    levels: list[Level]
    """The levels that do not depend on learnt features, fine to coarse: all of them, or only the first."""


@dataclass(frozen=True, kw_only=True)
class ScanDepthBatch:
    """A batch of pre-training images with the depths of their scans."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB, padded at the bottom and right; in memory a pixel's channels lie together."""
    image_sizes: Tensor
    """(B, 2) int64, height and width without padding."""
    depth: Tensor | None
    """(B, 1, H, W) float32 metres, 0 where the scan tells none; None where nothing learns from it."""
    sample_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class PairBatch(ScanDepthBatch):
    """A batch of pre-training samples with the two views of their scans."""

    original: PointView
    augmented: PointView
    augmented_location: Tensor
    """(B, N, 3) float32: the augmented view's points with the augmentation undone, metres in the sensor frame."""
    match: Tensor | None
    """(B, M) int64: for each last-level centre of the original view the centre of the augmented view that is its
    positive, -1 for none; None where the centres depend on learnt features."""
    pixels: Tensor
    """(B, N, 2) float32: u, v of each original point in the image view."""
    is_visible: Tensor
    """(B, N) bool: inside the image and not hidden behind nearer points."""


@dataclass(frozen=True)
class DepthBatch:
    """A batch of fine-tuning samples."""

    images: Tensor
    """(B, 3, h, w) uint8 RGB, as the net is shown them; in memory a pixel's channels lie together."""
    depth: Tensor
    """(B, 1, H, W) float32 metres at full resolution, 0 where nothing was measured."""
    sample_ids: list[str]
