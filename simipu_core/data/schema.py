"""Rows of the catalogue and of the two kinds of shards: how they are typed in Python, and their Arrow schemas.

Matrices are row-major. `lidar_to_camera` maps homogeneous metres in the sensor frame to metres in the camera
frame (x right, y down, z along the optical axis); `intrinsics` maps camera metres to pixels.
"""

from collections.abc import Sequence
from typing import TypedDict, final

import pyarrow as pa

from simipu_core.data.lenses import Lens


class FrameRow(TypedDict):
    """What ingest finds in the files of one frame; :data:`CATALOGUE` says what each key means."""

    sample_id: str
    source: str
    sequence: str
    timestamp_us: int | None
    points_timestamp_us: int | None
    image: str
    image_sha256: str
    height: int
    width: int
    points: str | None
    points_sha256: str | None
    num_points: int | None
    num_dropped: int | None
    depth: str | None
    depth_sha256: str | None
    depth_scale: float | None
    intrinsics: Sequence[float]
    lens: Lens | None
    distortion: Sequence[float] | None
    lidar_to_camera: Sequence[float] | None


class CatalogueRow(FrameRow):
    """A row of :data:`CATALOGUE`."""

    split: str


class ImageRow(TypedDict):
    """What rows of both kinds of shards have in common."""

    sample_id: str
    source: str
    sequence: str
    timestamp_us: int | None
    image: bytes
    height: int
    width: int
    intrinsics: Sequence[float]


@final
class PairRow(ImageRow):
    """A row of :data:`PAIRS`."""

    points: bytes
    visible: bytes
    lidar_to_camera: Sequence[float]


@final
class DepthRow(ImageRow):
    """A row of :data:`DEPTH`."""

    depth: bytes
    depth_scale: float
    depth_origin: str


_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_INTRINSICS = pa.list_(pa.float64(), 9)
_TRANSFORM = pa.list_(pa.float64(), 16)


def _schema(kind: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"simipu.format": str(version), "simipu.kind": kind})


CATALOGUE = _schema(
    "catalogue",
    3,
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", _DICTIONARY, nullable=False),
        pa.field("sequence", _DICTIONARY, nullable=False),
        pa.field("split", _DICTIONARY, nullable=False),  # train or eval
        pa.field("timestamp_us", pa.int64()),  # of the image; null where the source has none
        pa.field("points_timestamp_us", pa.int64()),
        pa.field("image", pa.string(), nullable=False),  # path below the root, or file.parquet#record
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("points", pa.string()),  # in the source's own format; null where it has no scan
        pa.field("points_sha256", pa.string()),
        pa.field("num_points", pa.int32()),
        pa.field("num_dropped", pa.int32()),  # points of the scan besides that are no measurements of their own
        pa.field("depth", pa.string()),  # 16-bit PNG; null where the source has no ground truth
        pa.field("depth_sha256", pa.string()),
        pa.field("depth_scale", pa.float64()),  # metres = value / depth_scale
        pa.field("intrinsics", _INTRINSICS, nullable=False),
        pa.field("lens", pa.string()),  # distortion that packing undoes; null where images are a pinhole camera's
        pa.field("distortion", pa.list_(pa.float64())),  # the lens's coefficients
        pa.field("lidar_to_camera", pa.list_(pa.float64())),  # 16 or null: Parquet cannot read null fixed lists back
    ],
)

PAIRS = _schema(
    "pairs",
    3,
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", _DICTIONARY, nullable=False),
        pa.field("sequence", _DICTIONARY, nullable=False),
        pa.field("timestamp_us", pa.int64()),
        pa.field("image", pa.binary(), nullable=False),  # PNG or JPEG file bytes
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("points", pa.binary(), nullable=False),  # little-endian float32 N×4: x y z metres, reflectance 0–1
        pa.field("visible", pa.binary(), nullable=False),  # bitmap, ⌈N/8⌉ bytes: which points no nearer one hides
        pa.field("intrinsics", _INTRINSICS, nullable=False),
        pa.field("lidar_to_camera", _TRANSFORM, nullable=False),
    ],
)

DEPTH = _schema(
    "depth",
    2,
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", _DICTIONARY, nullable=False),
        pa.field("sequence", _DICTIONARY, nullable=False),
        pa.field("timestamp_us", pa.int64()),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("intrinsics", _INTRINSICS, nullable=False),
        pa.field("depth", pa.binary(), nullable=False),  # 16-bit single-channel PNG bytes
        pa.field("depth_scale", pa.float64(), nullable=False),  # metres = value / depth_scale, 0 = no measurement
        pa.field("depth_origin", _DICTIONARY, nullable=False),  # official, projected_lidar or rendered
    ],
)
