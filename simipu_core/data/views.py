"""From one image-LiDAR pair to the two point views, the image view and the positives between them.

All geometry of pre-training happens here, in the loader's workers; the training step only gathers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simipu_core.config import ImageViewConfig, PointEncoderConfig, PretrainConfig
from simipu_core.data.batches import Level, PairBatch, PointView
from simipu_core.data.colour import change_colour
from simipu_core.data.images import decode_image
from simipu_core.data.schema import PairRow
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import project
from simipu_core.geometry.matching import match_points
from simipu_core.geometry.neighbours import ball_query
from simipu_core.geometry.rigid import draw_augmentation
from simipu_core.geometry.sampling import farthest_points

_LevelArrays = tuple[NDArray[np.int64], list[NDArray[np.int32]]]

_LOG_RANGE = np.float32(np.log1p(80))  # brings the logarithm of LiDAR distances to about 0–1
_NOWHERE = -1e6  # pixel of a point behind the camera


@dataclass(frozen=True)
class _View:
    xyz: NDArray[np.float32]
    features: NDArray[np.float32]
    levels: list[_LevelArrays]


@dataclass(frozen=True)
class _Sample:
    image: NDArray[np.uint8]
    original: _View
    augmented: _View
    augmented_location: NDArray[np.float32]
    match: NDArray[np.int64] | None
    pixels: NDArray[np.float32]
    is_visible: NDArray[np.bool_]
    sample_id: str


def projected(
    row: PairRow,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The scan of a pair row in its image.

    Returns:
        points (N, 4) in the sensor frame with reflectance; their pixels (N, 2) and depths (N,), metres; and which of
        them the camera sees (N,).
    """
    cloud = np.frombuffer(row["points"], np.float32).reshape(-1, 4)
    uv, depth = project(cloud[:, :3], row["lidar_to_camera"], row["intrinsics"])
    seen = np.unpackbits(np.frombuffer(row["visible"], np.uint8), count=len(cloud)).view(np.bool_)
    return cloud, uv, depth, seen


class PairViews:
    """Turns rows of pair shards into batches; a pure function of the rows and their random generators."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def __call__(self, rows: Sequence[PairRow], rngs: Sequence[np.random.Generator]) -> PairBatch:
        """Make a batch from rows of :data:`~simipu_core.data.schema.PAIRS`, one generator a row.

        Raises:
            SimipuError: a scan has no point in the configured range.
        """
        samples = [self._sample(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        return _collate(samples, self.config.image.pad_multiple)

    def _sample(self, row: PairRow, rng: np.random.Generator) -> _Sample:
        config = self.config
        cloud, uv, depth, seen = projected(row)
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
        is_index = config.contrast.pairing == "index"
        moved = points[slice(None) if is_index else rng.permutation(num)].copy()
        moved[:, :3] = augmentation.apply(moved[:, :3])
        location = augmentation.invert(moved[:, :3])
        picks = _first_picks(points, config.point_encoder)
        original = self._view(points, picks)
        augmented = self._view(moved, picks if is_index else _first_picks(moved, config.point_encoder))

        image, scale = _resize(decode_image(row["image"]), config.image, rng)
        pixels = uv[chosen].astype(np.float32)
        if config.contrast.feature_sampling == "align_corners":
            pixels = pixels * scale
            mirrored = image.shape[1] - pixels[:, 0]
        else:
            pixels = (pixels + 0.5) * scale - 0.5
            mirrored = image.shape[1] - 1 - pixels[:, 0]
        pixels[depth[chosen] <= 0] = _NOWHERE
        if augmentation.flip:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
            pixels[:, 0] = mirrored
        if rng.random() < config.image.colour:
            image = change_colour(image, config.image, rng)

        return _Sample(
            image=image,
            original=original,
            augmented=augmented,
            augmented_location=location,
            match=self._match(original, augmented, location),
            pixels=pixels,
            is_visible=seen[chosen],
            sample_id=row["sample_id"],
        )

    def _view(self, points: NDArray[np.float32], picks: NDArray[np.int64]) -> _View:
        xyz = np.ascontiguousarray(points[:, :3])
        return _View(xyz, self._features(points), neighbourhoods(xyz, picks, self.config.point_encoder))

    def _match(
        self, original: _View, augmented: _View, augmented_location: NDArray[np.float32]
    ) -> NDArray[np.int64] | None:
        config = self.config
        if config.point_encoder.sampling == "feature_halves":
            return None
        centres = config.point_encoder.levels[-1].num_points
        # later levels keep the first picks of the first one
        a = original.xyz[original.levels[0][0][:centres]]
        b = augmented_location[augmented.levels[0][0][:centres]]
        return match_points(a, b, config.contrast.pairing)

    def _features(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        kind = self.config.point_encoder.input_features
        if kind == "reflectance":
            return points[:, 3:]
        if kind == "reflectance_range":
            xyz = points[:, :3]
            distance = np.sqrt(np.einsum("nc,nc->n", xyz, xyz))
            return np.stack([points[:, 3], np.log1p(distance) / _LOG_RANGE], axis=1)
        low, high = np.split(np.asarray(self.config.points.point_range, np.float32), 2)
        return np.concatenate([points[:, 3:], points[:, :3] / np.abs([low, high]).max(axis=0)], axis=1)


def neighbourhoods(
    xyz: NDArray[np.float32], picks: NDArray[np.int64], config: PointEncoderConfig
) -> list[_LevelArrays]:
    """Centres and neighbour rows of every level that does not depend on learnt features.

    Args:
        xyz: points (N, 3), metres.
        picks: farthest point picks (M,) of the first level; later levels sampled by distance take their first rows.
        config: levels, rings and order.
    """
    result: list[_LevelArrays] = []
    levels = config.levels if config.sampling == "distance" else config.levels[:1]
    for level in levels:
        rows = np.arange(level.num_points) if result else picks
        centres = xyz[rows]
        found = ball_query(xyz, centres, level.radii, level.num_neighbours, ring=config.ring, order=config.neighbours)
        result.append((rows, found))
        xyz = centres
    return result


def _first_picks(points: NDArray[np.float32], config: PointEncoderConfig) -> NDArray[np.int64]:
    """Farthest point picks of the first level; the points come in random order, so the first is a random start."""
    return farthest_points(np.ascontiguousarray(points[:, :3]), config.levels[0].num_points)


def _in_range(points: NDArray[np.float32], limits: tuple[float, ...]) -> NDArray[np.bool_]:
    (x, y, z), (x0, y0, z0, x1, y1, z1) = points[:, :3].T, np.asarray(limits, np.float32)
    inside: NDArray[np.bool_] = (x > x0) & (x < x1) & (y > y0) & (y < y1) & (z > z0) & (z < z1)
    return inside


def resized(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """Size of an image scaled, ratio kept, to fit both bounds (docs/method.md, "Image size")."""
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
    images = np.zeros((len(samples), height, width, 3), np.uint8)
    for canvas, sample in zip(images, samples, strict=True):
        canvas[: sample.image.shape[0], : sample.image.shape[1]] = sample.image

    return PairBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        image_sizes=torch.from_numpy(sizes),
        original=_stack_views([sample.original for sample in samples]),
        augmented=_stack_views([sample.augmented for sample in samples]),
        augmented_location=_stack([sample.augmented_location for sample in samples]),
        match=None if samples[0].match is None else _stack([sample.match for sample in samples]),
        pixels=_stack([sample.pixels for sample in samples]),
        is_visible=_stack([sample.is_visible for sample in samples]),
        sample_ids=[sample.sample_id for sample in samples],
    )


def _stack_views(views: Sequence[_View]) -> PointView:
    levels = [
        Level(
            _stack([rows for rows, _ in level]), [_stack(radius) for radius in zip(*(n for _, n in level), strict=True)]
        )
        for level in zip(*(view.levels for view in views), strict=True)
    ]
    return PointView(_stack([view.xyz for view in views]), _stack([view.features for view in views]), levels)


def _stack(arrays: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
