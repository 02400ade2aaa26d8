"""The sensor messages of ROS 1 and ROS 2 as arrays; each size in a message is checked before it is believed."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.clouds import INTENSITY, MOST_POINTS
from simipu_core.data.lenses import NUM_COEFFICIENTS
from simipu_core.errors import SimipuError

_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""PointField's numbers."""
_TO_RGB: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
}
"""Channels and OpenCV's conversion by encoding."""
_LENSES = {"plumb_bob": "plumb_bob", "rational_polynomial": "rational_polynomial"} | dict.fromkeys(
    ("equidistant", "fisheye"), "equidistant"
)


def stamp_ns(message: Any) -> int:
    """Time in a message's header, nanoseconds.

    Raises:
        SimipuError: it is not set.
    """
    stamp = message.header.stamp
    time = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
    if time <= 0:
        raise SimipuError("has no time in its header; import with --receive-time")
    return time


def pixels(message: Any) -> NDArray[np.uint8]:
    """An Image as (H, W, 3) RGB.

    Raises:
        SimipuError: its encoding is not read, or it does not hold as many bytes as its size says.
    """
    if message.encoding not in _TO_RGB:
        raise SimipuError(f"has the encoding {message.encoding[:40]!r}; read are {', '.join(_TO_RGB)}")
    channels, conversion = _TO_RGB[message.encoding]
    height, width, step = message.height, message.width, message.step
    if min(height, width) < 1 or step < width * channels or height * step > len(message.data):
        raise SimipuError(f"holds {len(message.data)} bytes, too few for {height} rows of {width} pixels")
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)[:, : width * channels]
    image = np.ascontiguousarray(rows.reshape((height, width, channels) if channels > 1 else (height, width)))
    return image if conversion is None else np.asarray(cv2.cvtColor(image, conversion), np.uint8)


def cloud(message: Any) -> NDArray[np.float32]:
    """A PointCloud2 as (N, 4) x, y, z, intensity, or (N, 3) where it has none; points that are not finite left out.

    Raises:
        SimipuError: it lacks a field, or does not hold as many bytes as its size says.
    """
    height, width, step, row_step = message.height, message.width, message.point_step, message.row_step
    if not 0 < height * width <= MOST_POINTS:
        raise SimipuError(f"says it has {height * width} points; 1 to {MOST_POINTS} are read")
    if row_step < width * step or height * row_step > len(message.data):
        raise SimipuError(f"holds {len(message.data)} bytes, too few for {height * width} points of {step} bytes")
    known = {each.name: each for each in message.fields}
    names = [*"xyz", *[name for name in INTENSITY if name in known][:1]]
    if missing := [name for name in names if name not in known]:
        raise SimipuError(f"has no field {missing[0]} (it has {', '.join(known) or 'none'})")
    order = ">" if message.is_bigendian else "<"
    rows = np.frombuffer(message.data, np.uint8, height * row_step).reshape(height, row_step)[:, : width * step]
    raw = np.ascontiguousarray(rows).reshape(height * width, step)
    points = np.empty((len(raw), len(names)), np.float32)
    for index, name in enumerate(names):
        entry = known[name]
        if entry.datatype not in _DATATYPES or entry.count > 1:
            raise SimipuError(f"has a field {name} that is not one number")
        dtype = np.dtype(order + _DATATYPES[entry.datatype])
        if entry.offset + dtype.itemsize > step:
            raise SimipuError(f"has a field {name} that ends outside its points of {step} bytes")
        column = np.ascontiguousarray(raw[:, entry.offset : entry.offset + dtype.itemsize]).view(dtype)[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            points[:, index] = column
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise SimipuError("has no point with finite coordinates")
    return points


def intrinsics(message: Any, is_rectified: bool) -> dict[str, Any]:
    """A CameraInfo as keys of a camera in calibration.yaml.

    Raises:
        SimipuError: the camera is not calibrated, or its lens is of a kind that cannot be undistorted.
    """
    names = "kdp" if hasattr(message, "k") else "KDP"  # ROS 2, ROS 1
    k, d, p = (getattr(message, name) for name in names)
    matrix = np.reshape(p, (3, 4))[:, :3] if is_rectified else np.reshape(k, (3, 3))
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise SimipuError("its CameraInfo is of a camera that was not calibrated")
    if max(message.binning_x, message.binning_y) > 1:
        raise SimipuError("its CameraInfo says that images are binned")
    values: dict[str, Any] = dict(
        zip(("fx", "fy", "cx", "cy"), matrix[(0, 1, 0, 1), (0, 1, 2, 2)].tolist(), strict=True)
    )
    if is_rectified or not np.any(d):
        return {"size": [int(message.height), int(message.width)], **values}
    lens = _LENSES.get(message.distortion_model)
    if lens is None:
        raise SimipuError(f"its distortion model {message.distortion_model[:40]!r} is not one of {', '.join(_LENSES)}")
    coefficients = np.asarray(d, np.float64)
    largest = max(NUM_COEFFICIENTS[lens])  # type: ignore[index]
    if np.any(coefficients[largest:]):
        raise SimipuError(f"its distortion has more than {largest} coefficients")
    distortion = {"model": lens, "coefficients": coefficients[:largest].tolist()}
    return {"size": [int(message.height), int(message.width)], **values, "distortion": distortion}
