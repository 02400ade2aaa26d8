"""The obvious ways to do what this project does faster; they compute the same, and tests hold them to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simipu_core.config import DepthAugmentConfig, PretrainConfig
from simipu_core.models.point_encoder import gather_rows


def farthest_points(xyz: Tensor, num: int, start: int = 0) -> Tensor:
    """Farthest point sampling as PointNet++ in plain PyTorch usually has it: (B, N, 3) → (B, num) rows."""
    batch, num_points, _ = xyz.shape
    samples = torch.arange(batch)
    picked = torch.zeros(batch, num, dtype=torch.int64)
    distance = torch.full((batch, num_points), 1e10)
    farthest = torch.full((batch,), start)
    for i in range(num):
        picked[:, i] = farthest
        centre = xyz[samples, farthest][:, None]
        squared = ((xyz - centre) ** 2).sum(-1)
        nearer = squared < distance
        distance[nearer] = squared[nearer]
        farthest = distance.max(-1)[1]
    return picked


def ball_query(xyz: Tensor, centres: Tensor, radius: float, num: int, *, use_topk: bool = False) -> Tensor:
    """The first `num` points within a radius, as plain PyTorch code usually finds them: by sorting all indices.

    Args:
        xyz: (B, N, 3) metres.
        centres: (B, M, 3).
        radius: metres, inclusive.
        num: neighbours; missing ones repeat the first.
        use_topk: pick the smallest indices instead of sorting all of them.

    Returns:
        (B, M, num) rows.
    """
    batch, num_points, _ = xyz.shape
    squared = -2 * centres @ xyz.transpose(1, 2)
    squared += (centres**2).sum(-1)[:, :, None]
    squared += (xyz**2).sum(-1)[:, None]
    rows = torch.arange(num_points).expand(batch, centres.shape[1], -1).clone()
    rows[squared > radius**2] = num_points
    found = rows.topk(num, largest=False, sorted=True)[0] if use_topk else rows.sort(dim=-1)[0][:, :, :num]
    return torch.where(found == num_points, found[:, :, :1], found)


def levels(xyz: Tensor, config: Any, *, use_topk: bool = False) -> list[tuple[Tensor, list[Tensor]]]:
    """Centres and neighbours of all levels of a point encoder (`PointEncoderConfig`), each sampled anew."""
    result = []
    for level in config.levels:
        picked = farthest_points(xyz, level.num_points)
        centres = gather_rows(xyz, picked)
        groups = zip(level.radii, level.num_neighbours, strict=True)
        result.append((picked, [ball_query(xyz, centres, *group, use_topk=use_topk) for group in groups]))
        xyz = centres
    return result


def pool_every_member(_level: Any, mlp: Any, features: Tensor, rows: Tensor) -> Tensor:
    """What `SetAbstraction._pool` computes, with all layers run on every member of every neighbourhood."""
    hidden: Tensor = mlp(gather_rows(features, rows).flatten(0, 2))
    return hidden.view(*rows.shape, -1).max(dim=2).values


@dataclass(frozen=True)
class Folder:
    """Frames in KITTI's layout of files."""

    images: list[Path]
    depths: list[Path]
    """16-bit PNG."""
    scans: list[Path]
    calibrations: list[Path]


def depth_sample(
    folder: Folder, index: int, config: DepthAugmentConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One fine-tuning sample read from KITTI's files: (3, h, w) uint8 RGB and (1, h, w) metres."""
    image = np.asarray(Image.open(folder.images[index]).convert("RGB"))
    depth = np.asarray(Image.open(folder.depths[index]), np.float32) / 256
    height, width = depth.shape
    if config.fixed_crop == "kb":
        top, left = height - 352, (width - 1216) // 2
        image, depth = image[top : top + 352, left : left + 1216], depth[top : top + 352, left : left + 1216]
        height, width = depth.shape
    if rng.random() < 0.5 and config.rotation_deg > 0:
        angle = rng.uniform(-config.rotation_deg, config.rotation_deg)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1.0)
        image = np.asarray(cv2.warpAffine(image, matrix, (width, height)))
        depth = np.asarray(cv2.warpAffine(depth, matrix, (width, height), flags=cv2.INTER_NEAREST))
    if rng.random() < config.flip:
        image, depth = image[:, ::-1], depth[:, ::-1]
    if config.crop is not None:
        rows, columns = config.crop
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        image, depth = image[top : top + rows, left : left + columns], depth[top : top + rows, left : left + columns]
    if rng.random() < config.colour:
        values = image.astype(np.float32) ** rng.uniform(*config.gamma) * rng.uniform(*config.brightness)
        values = values * rng.uniform(*config.channel_gain, size=3)
        image = np.clip(values, 0, 255).round().astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(depth.copy())[None]


@dataclass(frozen=True)
class PairSample:
    """One pre-training sample without its neighbourhoods."""

    image: Tensor
    """(3, H, W) uint8 RGB."""
    points: Tensor
    """(N, 4) x, y, z, reflectance."""
    augmented: Tensor
    """(N, 3)."""
    pixels: Tensor
    """(N, 2)."""


def pair_sample(folder: Folder, index: int, config: PretrainConfig, rng: np.random.Generator) -> PairSample:
    """One pre-training sample read from KITTI's files: whole scan, calibration text, image."""
    image = np.asarray(Image.open(folder.images[index]).convert("RGB"))
    cloud = np.fromfile(folder.scans[index], np.float32).reshape(-1, 4)
    projection = _projection(folder.calibrations[index])
    height, width = image.shape[:2]
    homogeneous = np.concatenate([cloud[:, :3], np.ones((len(cloud), 1))], axis=1) @ projection.T
    depth = homogeneous[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = homogeneous[:, :2] / depth[:, None]
    low, high = np.split(np.asarray(config.points.point_range, np.float32), 2)
    in_frustum = (depth > 0.001) & (depth < 100) & (uv >= 0).all(axis=1) & (uv < [width, height]).all(axis=1)
    kept = np.flatnonzero(in_frustum)
    inside = (cloud[kept, :3] > low).all(axis=1) & (cloud[kept, :3] < high).all(axis=1)
    candidates = np.flatnonzero(inside)
    num = config.points.num_points
    chosen = kept[rng.choice(candidates, num, replace=len(candidates) < num)]
    points, uv = cloud[chosen], uv[chosen]

    limit = np.deg2rad(config.points.rotation_deg)
    angle, scale = rng.uniform(-limit, limit), rng.uniform(*config.points.scale)
    flip = rng.random() < config.points.flip
    centre = (low + high) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = ((points[:, :3] - centre) @ turn + centre) * scale
    if flip:
        moved[:, 1] *= -1

    long_side, short_side = (int(rng.integers(a, b + 1)) for a, b in (config.image.long_side, config.image.short_side))
    factor = min(max(long_side, short_side) / max(height, width), min(long_side, short_side) / min(height, width))
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    image = np.asarray(cv2.resize(image, size))
    pixels = (uv + 0.5) * (size[0] / width, size[1] / height) - 0.5
    if flip:
        image, pixels = image[:, ::-1], np.stack([size[0] - 1 - pixels[:, 0], pixels[:, 1]], axis=1)
    return PairSample(
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        torch.from_numpy(points),
        torch.from_numpy(moved.astype(np.float32)),
        torch.from_numpy(pixels.astype(np.float32)),
    )


def padded(images: Sequence[Tensor], multiple: int) -> Tensor:
    """Images of different sizes in one batch, zeros at the bottom and right."""
    height, width = (-(-max(image.shape[side] for image in images) // multiple) * multiple for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for canvas, image in zip(batch, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return batch


def _projection(file: Path) -> NDArray[np.float64]:
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    result = np.eye(4)
    for label, shape in (("P2", (3, 4)), ("R0_rect", (3, 3)), ("Tr_velo_to_cam", (3, 4))):
        matrix = np.eye(4)
        matrix[: shape[0], : shape[1]] = np.array(lines[label].split(), float).reshape(shape)
        result = result @ matrix
    return result
