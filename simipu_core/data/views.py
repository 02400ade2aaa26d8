"""From one image-LiDAR pair to the two point views, the image view and the positives between them.

All geometry of pre-training happens here, in the loader's workers; the training step only gathers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simipu_core.config import ImageViewConfig, PointEncoderConfig, PretrainConfig
from simipu_core.data.images import decode_image
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.matching import hungarian, mutual_nearest
from simipu_core.geometry.neighbours import ball_query
from simipu_core.geometry.rigid import draw_augmentation
from simipu_core.geometry.sampling import farthest_points
from simipu_core.geometry.visibility import cell_size, visible

Row = Mapping[str, Any]

_OCCLUSION_MARGIN = 0.05  # share of a point's depth by which another must be nearer to hide it


@dataclass(frozen=True)
class PointView:
    """One view of a point cloud, in farthest point order.

    The first M rows are the centres of a set-abstraction level with M points, so a level's input is a prefix.
    """

    xyz: Tensor
    """(B, N, 3) float32, metres in the sensor frame (of this view)."""
    features: Tensor
    """(B, N, C) float32, raw point features."""
    neighbours: list[list[Tensor]]
    """Per level and radius (B, M, K) int32 rows of the level's input."""


@dataclass(frozen=True)
class PairBatch:
    """A batch of pre-training samples."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB, padded at the bottom and right."""
    image_sizes: Tensor
    """(B, 2) int64, height and width without padding."""
    original: PointView
    augmented: PointView
    match: Tensor
    """(B, M) int64: row of the augmented view that is the same place as each original centre, -1 for none."""
    match_distance: Tensor
    """(B, M) float32 metres between the matched points, un-augmented."""
    pixels: Tensor
    """(B, M, 2) float32: u, v of each original centre in the image view."""
    is_visible: Tensor
    """(B, M) bool: inside the image and not hidden behind nearer points."""
    sample_ids: list[str]


@dataclass(frozen=True)
class _Sample:
    image: NDArray[np.uint8]
    xyz: tuple[NDArray[np.float32], NDArray[np.float32]]
    features: tuple[NDArray[np.float32], NDArray[np.float32]]
    neighbours: tuple[list[list[NDArray[np.int32]]], list[list[NDArray[np.int32]]]]
    match: NDArray[np.int64]
    match_distance: NDArray[np.float32]
    pixels: NDArray[np.float32]
    is_visible: NDArray[np.bool_]
    sample_id: str


class PairViews:
    """Turns rows of pair shards into batches; a pure function of the rows and their random generators."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def __call__(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator]) -> PairBatch:
        """Make a batch from rows of :data:`~simipu_core.data.schema.PAIRS`, one generator a row.

        Raises:
            SimipuError: a scan has no point in the configured range.
        """
        samples = [self._sample(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        return _collate(samples, self.config.image.pad_multiple)

    def _sample(self, row: Row, rng: np.random.Generator) -> _Sample:
        config = self.config
        cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
        intrinsics = np.reshape(row["intrinsics"], (3, 3))
        uv, depth = project(cloud[:, :3], np.reshape(row["lidar_to_camera"], (4, 4)), intrinsics)
        inside = in_image(uv, depth, row["height"], row["width"])
        seen = inside.copy()
        seen[inside] = visible(
            uv[inside], depth[inside], row["height"], row["width"], _OCCLUSION_MARGIN, cell_size(intrinsics)
        )

        kept = np.flatnonzero(_in_range(cloud, config.points.point_range))
        if len(kept) == 0:
            raise SimipuError(
                f"{row['sample_id']}: no LiDAR point lies in pretrain.points.point_range "
                f"{config.points.point_range}; widen it to fit this sensor."
            )
        num = config.points.num_points
        chosen = rng.choice(kept, num, replace=len(kept) < num)
        points = cloud[chosen]
        augmentation = draw_augmentation(config.points, rng)

        order = _farthest_order(points, config.point_encoder, rng)
        if config.contrast.pairing == "index":
            order_augmented = order
        else:
            order_augmented = _farthest_order(points, config.point_encoder, rng)
        original = points[order]
        moved = points[order_augmented].copy()
        moved[:, :3] = augmentation.apply(moved[:, :3])

        centres = config.point_encoder.levels[-1].num_points
        a = original[:centres, :3]
        b = augmentation.invert(moved[:centres, :3])
        if config.contrast.pairing == "index":
            match = np.arange(centres)
        else:
            match = (hungarian if config.contrast.pairing == "hungarian" else mutual_nearest)(a, b)

        image, scale = _resize(decode_image(row["image"]), config.image, rng)
        pixels = uv[chosen[order[:centres]]].astype(np.float32)
        if config.contrast.feature_sampling == "align_corners":
            pixels = pixels * scale
            mirrored = image.shape[1] - pixels[:, 0]
        else:
            pixels = (pixels + 0.5) * scale - 0.5
            mirrored = image.shape[1] - 1 - pixels[:, 0]
        if augmentation.flip:
            image = np.ascontiguousarray(image[:, ::-1])
            pixels[:, 0] = mirrored

        return _Sample(
            image=image,
            xyz=(original[:, :3], moved[:, :3]),
            features=(self._features(original), self._features(moved)),
            neighbours=(
                neighbourhoods(original[:, :3], config.point_encoder),
                neighbourhoods(moved[:, :3], config.point_encoder),
            ),
            match=match,
            match_distance=np.linalg.norm(a - b[match], axis=1).astype(np.float32),
            pixels=pixels,
            is_visible=seen[chosen[order[:centres]]],
            sample_id=row["sample_id"],
        )

    def _features(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.config.point_encoder.input_features == "reflectance":
            return points[:, 3:]
        low, high = np.split(np.asarray(self.config.points.point_range, np.float32), 2)
        return np.concatenate([points[:, 3:], points[:, :3] / np.abs([low, high]).max(axis=0)], axis=1)


def neighbourhoods(xyz: NDArray[np.float32], config: PointEncoderConfig) -> list[list[NDArray[np.int32]]]:
    """Neighbour rows of every level and radius for points (N, 3) in farthest point order."""
    result = []
    for level in config.levels:
        centres = xyz[: level.num_points]
        result.append(
            ball_query(xyz, centres, level.radii, level.num_neighbours, ring=config.ring, order=config.neighbours)
        )
        xyz = centres
    return result


def _farthest_order(
    points: NDArray[np.float32], config: PointEncoderConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Order that puts the farthest point picks, from a random start, before all other points."""
    start = int(rng.integers(len(points)))
    picked = farthest_points(np.ascontiguousarray(points[:, :3]), config.levels[0].num_points, start)
    is_rest = np.ones(len(points), bool)
    is_rest[picked] = False
    return np.concatenate([picked, rng.permutation(np.flatnonzero(is_rest))])


def _in_range(points: NDArray[np.float32], limits: tuple[float, ...]) -> NDArray[np.bool_]:
    low, high = np.split(np.asarray(limits, np.float32), 2)
    inside: NDArray[np.bool_] = np.all((points[:, :3] > low) & (points[:, :3] < high), axis=1)
    return inside


def resized(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """Size of an image scaled, ratio kept, to fit both bounds (reference section 1.2, step 6)."""
    scale = min(max(long_side, short_side) / max(height, width), min(long_side, short_side) / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def _resize(
    image: NDArray[np.uint8], config: ImageViewConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    long_side = int(rng.integers(config.long_side[0], config.long_side[1] + 1))
    short_side = int(rng.integers(config.short_side[0], config.short_side[1] + 1))
    height, width = resized(image.shape[0], image.shape[1], long_side, short_side)
    scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8), scale


def _collate(samples: Sequence[_Sample], multiple: int) -> PairBatch:
    sizes = np.array([sample.image.shape[:2] for sample in samples])
    height, width = -(-sizes.max(axis=0) // multiple) * multiple
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
    for canvas, sample in zip(images, samples, strict=True):
        image = torch.from_numpy(sample.image).permute(2, 0, 1)
        canvas[:, : image.shape[1], : image.shape[2]] = image

    def view(side: int) -> PointView:
        levels = zip(*(sample.neighbours[side] for sample in samples), strict=True)
        return PointView(
            xyz=_stack([sample.xyz[side] for sample in samples]),
            features=_stack([sample.features[side] for sample in samples]),
            neighbours=[[_stack(radius) for radius in zip(*level, strict=True)] for level in levels],
        )

    return PairBatch(
        images=images,
        image_sizes=torch.from_numpy(sizes),
        original=view(0),
        augmented=view(1),
        match=_stack([sample.match for sample in samples]),
        match_distance=_stack([sample.match_distance for sample in samples]),
        pixels=_stack([sample.pixels for sample in samples]),
        is_visible=_stack([sample.is_visible for sample in samples]),
        sample_ids=[sample.sample_id for sample in samples],
    )


def _stack(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
