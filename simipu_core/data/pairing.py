"""From a catalogued frame to a shard row: image with point cloud, or image with depth map."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import PairConfig
from simipu_core.data.catalogue import Row
from simipu_core.data.frames import BrokenFrameError, Rejected
from simipu_core.data.images import decode_image, depth_values, encode_depth, encode_jpeg, encode_png, encode_raw
from simipu_core.data.lenses import through_pinhole
from simipu_core.data.sources import source_named
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible

PROJECTED_SCALE = 256.0
"""Steps a metre of depth maps made from LiDAR, as in KITTI's own."""


@dataclass(frozen=True)
class Packed:
    """A row ready for a shard."""

    row: dict[str, Any]
    split: str
    num_points: int
    """LiDAR points in the image, or pixels with depth."""
    histogram: NDArray[np.int64] | None = None
    """Number of pixels by 16-bit depth value, (65536,); only of depth rows that train."""


def pack_pair(root: Path, config: PairConfig, frame: Row) -> Packed | Rejected:
    """Make a `pairs` row: the image with the part of its scan that lies in the camera's frustum.

    Args:
        root: folder that the catalogue's paths start from.
        config: encoding, depth range, fewest points, synchronisation and occlusion margin.
        frame: catalogue row with a scan.

    Returns:
        The row, or why the frame cannot be used.
    """
    try:
        points, uv, depth, total = _points_in_image(root, config, frame)
        seen = _visible(uv, depth, config, frame)
        row = {
            **_image_columns(root, config, frame),
            "points": points.tobytes(),
            "lidar_to_camera": frame["lidar_to_camera"],
            "share_in_image": len(points) / total,
            "share_occluded": 1 - float(seen.mean()),
        }
        return Packed(row, frame["split"], len(points))
    except BrokenFrameError as error:
        return Rejected(frame["sample_id"], frame["sequence"], error.file, error.reason)


def pack_depth(root: Path, config: PairConfig, official: str, frame: Row) -> Packed | Rejected:
    """Make a `depth` row: the image with its official ground truth, or with its LiDAR scan projected.

    Args:
        root: folder that the catalogue's paths start from.
        config: `depth_from` decides which of the two; otherwise as for :func:`pack_pair`.
        official: depth_origin of ground-truth files, `official` or `rendered`.
        frame: catalogue row with ground truth, or with a scan.

    Returns:
        The row, or why the frame cannot be used.
    """
    try:
        if config.depth_from == "official":
            data, scale, origin = _read(root, frame, "depth"), frame["depth_scale"], official
        else:
            data, scale, origin = _projected(root, config, frame), PROJECTED_SCALE, "projected_lidar"
        values = depth_values(data)
        row = {
            **_image_columns(root, config, frame),
            "depth": encode_raw(values) if config.image_encoding == "raw" else data,
            "depth_scale": scale,
            "depth_origin": origin,
        }
        histogram = np.bincount(values.ravel(), minlength=1 << 16) if frame["split"] == "train" else None
        return Packed(row, frame["split"], int(np.count_nonzero(values)), histogram)
    except BrokenFrameError as error:
        return Rejected(frame["sample_id"], frame["sequence"], error.file, error.reason)


def depth_map(uv: NDArray[np.floating], depth: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
    """Draw points as a sparse depth map: each on the pixel nearest to it, the nearest point where several meet.

    Args:
        uv: (N, 2) pixel coordinates; points that round to a pixel outside are dropped.
        depth: (N,) metres.
        height: rows of the map.
        width: columns of the map.

    Returns:
        (height, width) float64 metres, 0 where there is no point.
    """
    columns, rows = np.rint(uv).astype(np.intp).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    result = np.full((height, width), np.inf)
    np.minimum.at(result, (rows[inside], columns[inside]), depth[inside])
    result[np.isinf(result)] = 0
    return result


def _projected(root: Path, config: PairConfig, frame: Row) -> bytes:
    _, uv, depth, _ = _points_in_image(root, config, frame)
    seen = _visible(uv, depth, config, frame)
    return encode_depth(depth_map(uv[seen], depth[seen], frame["height"], frame["width"]), PROJECTED_SCALE)


def _points_in_image(
    root: Path, config: PairConfig, frame: Row
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], int]:
    """Points (N, 4) inside the frustum, their pixels (N, 2) and depths (N,), and the size of the whole scan."""
    _check_sync(root, config, frame)
    scan = source_named(frame["source"]).read_scan(root / frame["points"])
    _check_unchanged(root, frame, "points", scan.sha256)
    points = scan.points
    uv, depth = project(points[:, :3], frame["lidar_to_camera"], frame["intrinsics"])
    inside = in_image(uv, depth, frame["height"], frame["width"], config.depth_range)
    if (found := int(inside.sum())) < config.min_points:
        raise BrokenFrameError(
            root / frame["points"],
            f"has {found} of its {len(points)} points in the image, fewer than pair.min_points={config.min_points}",
        )
    return points[inside], uv[inside], depth[inside], len(points)


def _check_sync(root: Path, config: PairConfig, frame: Row) -> None:
    if frame["timestamp_us"] is None or frame["points_timestamp_us"] is None:
        return
    apart = abs(frame["timestamp_us"] - frame["points_timestamp_us"]) / 1000
    if apart > config.max_sync_ms:
        reason = f"was taken {apart:.0f} ms from its image, more than pair.max_sync_ms={config.max_sync_ms:g}"
        raise BrokenFrameError(root / frame["points"], reason)


def _visible(uv: NDArray[np.float64], depth: NDArray[np.float64], config: PairConfig, frame: Row) -> NDArray[np.bool_]:
    cell = cell_size(frame["intrinsics"])
    return visible(uv, depth, frame["height"], frame["width"], config.occlusion_margin, cell)


def _image_columns(root: Path, config: PairConfig, frame: Row) -> dict[str, Any]:
    image = _read(root, frame, "image")
    if config.image_encoding != "source" or frame["lens"]:
        pixels = through_pinhole(decode_image(image), frame)
        encode = {"source": encode_png, "jpeg": encode_jpeg, "raw": encode_raw}[config.image_encoding]
        image = encode(pixels)
    names = ("sample_id", "source", "sequence", "timestamp_us", "height", "width", "intrinsics")
    return {**{name: frame[name] for name in names}, "image": image}


def _read(root: Path, frame: Row, kind: str) -> bytes:
    """Bytes of a catalogued file, which must be those that ingest checked."""
    data = source_named(frame["source"]).read_file(root / frame[kind])
    _check_unchanged(root, frame, kind, hashlib.sha256(data).hexdigest())
    return data


def _check_unchanged(root: Path, frame: Row, kind: str, sha256: str) -> None:
    if sha256 != frame[f"{kind}_sha256"]:
        raise BrokenFrameError(root / frame[kind], "changed since it was ingested")
