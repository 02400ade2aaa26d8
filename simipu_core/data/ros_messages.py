"""The sensor messages of ROS 1 and ROS 2 as arrays; each size in a message is checked before it is believed."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.clouds import INTENSITY, MOST_POINTS
from simipu_core.data.formats.scans import measured
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


_POINT_TIMES = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
_UNITS_NS = (1e9, 1e6, 1e3, 1.0)
_SHORTEST_NS, _LONGEST_NS = 2e6, 1e9
"""Of a sweep; the longest is less than 1000 times the shortest, so that one unit fits."""


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
    """A PointCloud2 as (N, 4) x, y, z, intensity, or (N, 3) where it has none; measured points only.

    Raises:
        SimipuError: it lacks a field, or does not hold as many bytes as its size says.
    """
    names = ["x", "y", "z", *_intensity(message)]
    columns = _columns(message, names)
    points = np.empty((len(columns[0]), len(names)), np.float32)
    for index, column in enumerate(columns):
        with np.errstate(over="ignore", invalid="ignore"):
            points[:, index] = column
    return measured(points)[0]


def is_of_8_bits(message: Any) -> bool:
    """Whether the intensities of a PointCloud2 are of 8 bits, which tells that they go up to 255."""
    return any(_DATATYPES.get(each.datatype) == "u1" for each in message.fields if each.name in _intensity(message))


def sweep_middle_ns(message: Any) -> int | None:
    """Nanoseconds from the time in a PointCloud2's header to the middle of its points' own times.

    Whether those are of the clock or from the header on, and their unit, is told by what is near that time, or lasts as
    long as a sweep does.

    Returns:
        None where points have no times, or these cannot be told.

    Raises:
        SimipuError: as for :func:`cloud`.
    """
    name = next((each.name for each in message.fields if each.name in _POINT_TIMES), None)
    if name is None:
        return None
    times = _columns(message, [name])[0].astype(np.float64)
    times = times[np.isfinite(times)]
    stamp = int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
    for unit in _UNITS_NS if len(times) else ():
        first, last = times.min() * unit, times.max() * unit
        origin = stamp if abs(first - stamp) < _LONGEST_NS else 0
        if max(abs(first - origin), abs(last - origin)) <= _LONGEST_NS and last - first >= _SHORTEST_NS:
            return int((first + last) / 2 - origin)
    return None


def has_point_times(message: Any) -> bool:
    """Whether the points of a PointCloud2 have times of their own."""
    return any(each.name in _POINT_TIMES for each in message.fields)


def _intensity(message: Any) -> list[str]:
    known = {each.name for each in message.fields}
    return [name for name in INTENSITY if name in known][:1]


def _columns(message: Any, names: list[str]) -> list[NDArray[Any]]:
    """Fields of a PointCloud2, (N,) each."""
    height, width, step, row_step = message.height, message.width, message.point_step, message.row_step
    if not 0 < height * width <= MOST_POINTS:
        raise SimipuError(f"says it has {height * width} points; 1 to {MOST_POINTS} are read")
    if row_step < width * step or height * row_step > len(message.data):
        raise SimipuError(f"holds {len(message.data)} bytes, too few for {height * width} points of {step} bytes")
    known = {each.name: each for each in message.fields}
    if missing := [name for name in names if name not in known]:
        raise SimipuError(f"has no field {missing[0]} (it has {', '.join(known) or 'none'})")
    order = ">" if message.is_bigendian else "<"
    rows = np.frombuffer(message.data, np.uint8, height * row_step).reshape(height, row_step)[:, : width * step]
    raw = np.ascontiguousarray(rows).reshape(height * width, step)
    columns = []
    for name in names:
        entry = known[name]
        if entry.datatype not in _DATATYPES or entry.count > 1:
            raise SimipuError(f"has a field {name} that is not one number")
        dtype = np.dtype(order + _DATATYPES[entry.datatype])
        if entry.offset + dtype.itemsize > step:
            raise SimipuError(f"has a field {name} that ends outside its points of {step} bytes")
        columns.append(np.ascontiguousarray(raw[:, entry.offset : entry.offset + dtype.itemsize]).view(dtype)[:, 0])
    return columns


def intrinsics(message: Any, is_rectified: bool) -> dict[str, Any]:
    """A CameraInfo as keys of a camera in calibration.yaml, for images as they are: cut to its region and binned.

    Raises:
        SimipuError: the camera is not calibrated, or its lens is of a kind that cannot be undistorted.
    """
    names = "kdp" if hasattr(message, "k") else "KDP"  # ROS 2, ROS 1
    k, d, p = (getattr(message, name) for name in names)
    matrix = np.reshape(p, (3, 4))[:, :3] if is_rectified else np.reshape(k, (3, 3))
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise SimipuError("its CameraInfo is of a camera that was not calibrated")
    focal, centre, size = _of_region(message, matrix)
    values: dict[str, Any] = dict(zip(("fx", "fy", "cx", "cy"), (*focal, *centre), strict=True))
    if is_rectified or not np.any(d):
        return {"size": size, **values}
    lens = _LENSES.get(message.distortion_model)
    if lens is None:
        raise SimipuError(f"its distortion model {message.distortion_model[:40]!r} is not one of {', '.join(_LENSES)}")
    coefficients = np.asarray(d, np.float64)
    largest = max(NUM_COEFFICIENTS[lens])  # type: ignore[index]
    if np.any(coefficients[largest:]):
        raise SimipuError(f"its distortion has more than {largest} coefficients")
    distortion = {"model": lens, "coefficients": coefficients[:largest].tolist()}
    return {"size": size, **values, "distortion": distortion}


def _of_region(message: Any, matrix: NDArray[Any]) -> tuple[list[float], list[float], list[int]]:
    """Focal lengths and centre, x before y, and height and width of images of a CameraInfo's region, binned.

    A pixel of several has its centre in their middle: the centre is moved by half a pixel, too.
    """
    region, binning = message.roi, np.maximum([message.binning_x, message.binning_y], 1)
    whole = [region.width or message.width, region.height or message.height]
    focal = np.diag(matrix)[:2] / binning
    centre = (matrix[:2, 2] - [region.x_offset, region.y_offset] - (binning - 1) / 2) / binning
    width, height = (int(pixels) // int(bins) for pixels, bins in zip(whole, binning, strict=True))
    return focal.tolist(), centre.tolist(), [height, width]
