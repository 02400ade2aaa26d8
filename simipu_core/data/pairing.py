"""From a catalogued frame to a shard row: image with point cloud, or image with depth map."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import PairConfig
from simipu_core.data.frames import BrokenFrameError, Rejected
from simipu_core.data.images import (
    NO_DEPTH,
    decode_image,
    encode_depth,
    encode_jpeg,
    encode_png,
    encode_raw,
    stored_depth,
)
from simipu_core.data.lenses import through_pinhole
from simipu_core.data.schema import CatalogueRow, DepthRow, ImageRow, PairRow
from simipu_core.data.sources import source_named
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible

_AHEAD = np.deg2rad(30)
"""Angle between a camera's heading and its scanner's x up to which `pretrain.points.point_range` fits as it is."""
PROJECTED_SCALE = 256.0
"""Steps a metre of depth maps made from LiDAR, as in KITTI's own."""


@dataclass(frozen=True)
class Packed:
    """A row ready for a shard."""

    row: PairRow | DepthRow
    split: str
    num_points: int
    """LiDAR points in the image, or pixels with depth."""
    share_in_image: float = 0.0
    """Of the whole scan; only of pair rows, as the next."""
    share_occluded: float = 0.0
    """Of the points in the image."""
    num_codes: int = 0
    """Pixels of depth rows whose largest value says that nothing was measured."""
    histogram: NDArray[np.int64] | None = None
    """Number of pixels by 16-bit depth value, (65536,); only of depth rows that train."""


@dataclass(frozen=True)
class _Projection:
    """The part of a scan that lies in its image."""

    points: NDArray[np.float32]
    """(N, 4) metres in the sensor frame, and reflectance."""
    uv: NDArray[np.float64]
    """(N, 2) pixels."""
    depth: NDArray[np.float64]
    """(N,) metres along the optical axis."""
    is_visible: NDArray[np.bool_]
    """(N,): no nearer point hides it."""
    lidar_to_camera: Sequence[float]
    num_scanned: int
    """Points of the whole scan."""


def pack_pair(root: Path, config: PairConfig, frame: CatalogueRow) -> Packed | Rejected:
    """Make a `pairs` row: the image with the part of its scan that lies in the camera's frustum.

    Args:
        root: folder that the catalogue's paths start from.
        config: encoding, depth range, fewest points, synchronisation and occlusion margin.
        frame: catalogue row with a scan.

    Returns:
        The row, or why the frame cannot be used.
    """
    try:
        scan = _project_scan(root, config, frame)
        points, lidar_to_camera = facing(scan.points, scan.lidar_to_camera)
        row: PairRow = {
            **_image_columns(root, config, frame),
            "points": points.tobytes(),
            "visible": np.packbits(scan.is_visible).tobytes(),
            "lidar_to_camera": lidar_to_camera,
        }
        return Packed(
            row,
            frame["split"],
            num_points=len(scan.points),
            share_in_image=len(scan.points) / scan.num_scanned,
            share_occluded=1 - float(scan.is_visible.mean()),
        )
    except BrokenFrameError as error:
        return Rejected(frame["sample_id"], frame["sequence"], error.file, error.reason)


def facing(
    points: NDArray[np.float32], lidar_to_camera: Sequence[float]
) -> tuple[NDArray[np.float32], Sequence[float]]:
    """Turn a scan about its upright axis until x points the way the camera looks, where that is far from x.

    Args:
        points: (N, 4) metres in the sensor frame, and reflectance.
        lidar_to_camera: (16,) row by row.

    Returns:
        The same of a sensor frame whose x is the camera's heading; as they were where it is within `_AHEAD` of x.
    """
    transform = np.reshape(np.asarray(lidar_to_camera, np.float64), (4, 4))
    heading = float(np.arctan2(transform[2, 1], transform[2, 0]))
    if abs(heading) <= _AHEAD:
        return points, lidar_to_camera
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]]
    turned = points.copy()
    turned[:, :2] = np.einsum("nj,jk->nk", points[:, :2].astype(np.float64), turn[:2, :2])
    return turned, (transform @ turn).ravel().tolist()


def too_much_to_pack(root: Path, frame: CatalogueRow, reason: str) -> Rejected:
    """A catalogued frame that took more than it may to read."""
    return Rejected(frame["sample_id"], frame["sequence"], root / frame["image"], f"its frame {reason}")


def pack_depth(root: Path, config: PairConfig, official: str, frame: CatalogueRow) -> Packed | Rejected:
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
        data, scale, origin = (
            (*_official_depth(root, frame), official)
            if config.depth_from == "official"
            else (_projected_depth(root, config, frame), PROJECTED_SCALE, "projected_lidar")
        )
        stored = stored_depth(data)
        is_code = stored == NO_DEPTH
        values = np.where(is_code, np.uint16(0), stored)
        row: DepthRow = {
            **_image_columns(root, config, frame),
            "depth": encode_raw(values) if config.image_encoding == "raw" else data,
            "depth_scale": scale,
            "depth_origin": origin,
        }
        histogram = np.bincount(values.ravel(), minlength=1 << 16) if frame["split"] == "train" else None
        measured, codes = int(np.count_nonzero(values)), int(np.count_nonzero(is_code))
        return Packed(row, frame["split"], measured, num_codes=codes, histogram=histogram)
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


def _official_depth(root: Path, frame: CatalogueRow) -> tuple[bytes, float]:
    """The 16-bit PNG of a frame's ground truth, and its steps a metre."""
    if not (frame["depth"] and frame["depth_sha256"] and frame["depth_scale"]):
        raise BrokenFrameError(root / frame["image"], "has no depth map with a scale")
    file = root / frame["depth"]
    data = source_named(frame["source"]).read_depth(file)
    _check_unchanged(file, hashlib.sha256(data).hexdigest(), frame["depth_sha256"])
    return data, frame["depth_scale"]


def _projected_depth(root: Path, config: PairConfig, frame: CatalogueRow) -> bytes:
    scan = _project_scan(root, config, frame)
    seen = scan.is_visible
    return encode_depth(depth_map(scan.uv[seen], scan.depth[seen], frame["height"], frame["width"]), PROJECTED_SCALE)


def _project_scan(root: Path, config: PairConfig, frame: CatalogueRow) -> _Projection:
    """Project a frame's scan into its image, and find out which of its points the camera sees."""
    if not (frame["points"] and frame["lidar_to_camera"]):
        raise BrokenFrameError(root / frame["image"], "has no scan with a calibration to its camera")
    file = root / frame["points"]
    _check_sync(file, config, frame)
    scan = source_named(frame["source"]).read_scan(file)
    _check_unchanged(file, scan.sha256, frame["points_sha256"])
    uv, depth = project(scan.points[:, :3], frame["lidar_to_camera"], frame["intrinsics"])
    height, width = frame["height"], frame["width"]
    inside = in_image(uv, depth, height, width, config.depth_range)
    if (found := int(inside.sum())) < config.min_points:
        raise BrokenFrameError(
            file,
            f"has {found} of its {len(scan.points)} points in the image, fewer than "
            f"pair.min_points={config.min_points}",
        )
    uv, depth = uv[inside], depth[inside]
    is_visible = visible(uv, depth, height, width, config.occlusion_margin, cell_size(frame["intrinsics"]))
    return _Projection(scan.points[inside], uv, depth, is_visible, frame["lidar_to_camera"], len(scan.points))


def _check_sync(points: Path, config: PairConfig, frame: CatalogueRow) -> None:
    if frame["timestamp_us"] is None or frame["points_timestamp_us"] is None:
        return
    apart = abs(frame["timestamp_us"] - frame["points_timestamp_us"]) / 1000
    if apart > config.max_sync_ms:
        reason = f"was taken {apart:.0f} ms from its image, more than pair.max_sync_ms={config.max_sync_ms:g}"
        raise BrokenFrameError(points, reason)


def _image_columns(root: Path, config: PairConfig, frame: CatalogueRow) -> ImageRow:
    image = read_catalogued_image(root, frame)
    if config.image_encoding != "source" or frame["lens"]:
        pixels = through_pinhole(decode_image(image), frame)
        encode = {"source": encode_png, "jpeg": encode_jpeg, "raw": encode_raw}[config.image_encoding]
        image = encode(pixels)
    return {
        "sample_id": frame["sample_id"],
        "source": frame["source"],
        "sequence": frame["sequence"],
        "timestamp_us": frame["timestamp_us"],
        "image": image,
        "height": frame["height"],
        "width": frame["width"],
        "intrinsics": frame["intrinsics"],
    }


def read_catalogued_image(root: Path, frame: CatalogueRow) -> bytes:
    """Bytes of a catalogued frame's image, as stored.

    Raises:
        BrokenFrameError: it cannot be read, or changed since ingest checked it.
    """
    return _read(root / frame["image"], frame["image_sha256"], frame["source"])


def _read(file: Path, sha256: str, source: str) -> bytes:
    """Bytes of a catalogued file, which must be those that ingest checked."""
    data = source_named(source).read_file(file)
    _check_unchanged(file, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _check_unchanged(file: Path, found: str, expected: str | None) -> None:
    if found != expected:
        raise BrokenFrameError(file, "changed since it was ingested")
