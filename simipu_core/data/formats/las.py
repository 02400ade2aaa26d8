"""ASPRS LAS 1.0–1.4 point files, and LAZ, which is LAS with packed points.

On hostile input the unpacker of LAZ may ask for any memory and abort, so it needs a process that can be spared, as
those of `parallel.map_frames` can.
"""

import struct
from io import BytesIO
from typing import Any

import lazrs
import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError

_MOST_BYTES = 1 << 29
"""Of the points, unpacked."""
_VLR_HEADER = 54
_LASZIP = (b"laszip encoded\0\0", 22204)
_PACKED = 0x80
_POINT_FORMATS = 11


def parse(data: bytes, most_points: int) -> dict[str, NDArray[Any]]:
    """x, y, z in the file's own unit, float64, and `intensity`, uint16; (N,) each.

    Args:
        data: content of the file.
        most_points: refuse more.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if len(data) < 227 or not data.startswith(b"LASF"):
        raise SimipuError("not a LAS file")
    header_size, start, num_vlrs, kind, stride, num_points = struct.unpack_from("<HIIBHI", data, 94)
    if data[24:26] >= b"\x01\x04" and header_size >= 375 and len(data) >= 375:
        num_points = num_points or struct.unpack_from("<Q", data, 247)[0]
    if stride < 20 or not header_size <= start <= len(data) or kind & ~_PACKED >= _POINT_FORMATS:
        raise SimipuError("has a damaged LAS header")
    size = num_points * stride
    if not 0 < num_points <= most_points or size > _MOST_BYTES:
        raise SimipuError(f"says it has {num_points} points of {stride} bytes; 1 to {most_points} points are read")
    points: bytearray | memoryview
    if kind & _PACKED:
        points = _unpack(data, header_size, start, num_vlrs, size)
    elif size > len(data) - start:
        raise SimipuError(f"has {len(data) - start} bytes of points, but its header asks for {size}")
    else:
        points = memoryview(data)[start : start + size]
    layout: Any = [("xyz", "<i4", 3), ("intensity", "<u2"), ("others", "V", stride - 14)]
    table: NDArray[Any] = np.frombuffer(points, np.dtype(layout))
    scale, offset = np.reshape(struct.unpack_from("<6d", data, 131), (2, 3))
    with np.errstate(all="ignore"):
        xyz = table["xyz"] * scale + offset
    return {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "intensity": table["intensity"]}


def _unpack(data: bytes, header_size: int, start: int, num_vlrs: int, size: int) -> bytearray:
    record = _laszip_record(data[:start], header_size, num_vlrs)
    source, points = BytesIO(data), bytearray(size)
    source.seek(start)
    try:
        lazrs.LasZipDecompressor(source, record).decompress_many(points)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException:  # a panic of the library is no Exception
        raise SimipuError("has damaged LAZ points") from None
    return points


def _laszip_record(head: bytes, position: int, num_vlrs: int) -> bytes:
    for _ in range(min(num_vlrs, len(head) // _VLR_HEADER)):
        user, number, length = struct.unpack_from("<2x16sHH", head.ljust(position + _VLR_HEADER, b"\0"), position)
        position += _VLR_HEADER
        if (user, number) == _LASZIP:
            return head[position : position + length]
        position += length
        if position >= len(head):
            break
    raise SimipuError("has packed points, but no LASzip record")
