"""Arrow schemas of the catalogue and of the two kinds of shards.

Matrices are row-major. `lidar_to_camera` maps homogeneous metres in the sensor frame to metres in the camera
frame (x right, y down, z along the optical axis); `intrinsics` maps camera metres to pixels.
"""

import pyarrow as pa

FORMAT_VERSION = "2"

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_INTRINSICS = pa.list_(pa.float64(), 9)
_TRANSFORM = pa.list_(pa.float64(), 16)


def _schema(kind: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"simipu.format": FORMAT_VERSION, "simipu.kind": kind})


CATALOGUE = _schema(
    "catalogue",
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
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", _DICTIONARY, nullable=False),
        pa.field("sequence", _DICTIONARY, nullable=False),
        pa.field("timestamp_us", pa.int64()),
        pa.field("image", pa.binary(), nullable=False),  # PNG or JPEG file bytes
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("points", pa.binary(), nullable=False),  # little-endian float32 N×4: x y z metres, reflectance 0–1
        pa.field("intrinsics", _INTRINSICS, nullable=False),
        pa.field("lidar_to_camera", _TRANSFORM, nullable=False),
        pa.field("share_in_image", pa.float32(), nullable=False),  # of the whole scan
        pa.field("share_occluded", pa.float32(), nullable=False),  # of the points in the image
    ],
)

DEPTH = _schema(
    "depth",
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
