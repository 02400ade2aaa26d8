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

from simipu_core.config import PointEncoderConfig, PretrainConfig
from simipu_core.data.batches import Level, PairBatch, PointView
from simipu_core.data.colour import change_colour
from simipu_core.data.image_views import pad, resize
from simipu_core.data.images import decode_image
from simipu_core.data.scan_depth import projected, scan_depth
from simipu_core.data.schema import PairRow
from simipu_core.errors import SimipuError
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
    depth: NDArray[np.float32] | None
    sample_id: str


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

        image, scale = resize(decode_image(row["image"]), config.image, rng)
        targets = scan_depth(row, image.shape[:2], config.lidar_depth) if config.has_decoder else None
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
            targets = None if targets is None else np.asarray(cv2.flip(targets, 1), np.float32)
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
            depth=targets,
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


def _collate(samples: Sequence[_Sample], multiple: int) -> PairBatch:
    depths = [sample.depth for sample in samples if sample.depth is not None]
    return PairBatch(
        images=pad([sample.image for sample in samples], multiple).permute(0, 3, 1, 2),
        image_sizes=torch.tensor([sample.image.shape[:2] for sample in samples]),
        depth=pad(depths, multiple)[:, None] if depths else None,
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
