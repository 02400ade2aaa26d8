import struct

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.data.formats.depth_maps import as_depth_png
from simipu_core.data.frames import FLOAT_SCALE
from simipu_core.data.images import NO_DEPTH, decode_depth, depth_values, encode_raw
from simipu_core.errors import SimipuError

METRES = np.array([[2.0, 0.0, np.nan], [255.5, np.inf, -1.0]])


def encoded(values: NDArray[np.integer | np.floating], suffix: str) -> bytes:
    return encode_raw(values) if suffix == ".npy" else bytes(cv2.imencode(suffix, values)[1])


def png(*values: int, dtype: type[np.unsignedinteger] = np.uint16) -> bytes:
    return encoded(np.array([values], dtype), ".png")


def tiff(height: int, width: int) -> bytes:
    """Nothing but a header."""
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, width), (257, height))]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_metres_are_read_from_float_formats(suffix: str, dtype: type[np.floating]) -> None:
    made = decode_depth(as_depth_png(encoded(METRES.astype(dtype), suffix), suffix), FLOAT_SCALE)
    np.testing.assert_array_equal(made, np.array([[2, 0, 0], [255.5, 0, 0]], np.float32))


@pytest.mark.parametrize(
    ("data", "invalid", "values"),
    [
        (png(0, 1, 254, 255, dtype=np.uint8), (), [0, 1, 254, 0]),  # 8 bits
        (png(0, 1, 255, 65535), (), [0, 1, 255, 0]),
        (png(0, 1, 4094, 4095), (4095.0,), [0, 1, 4094, 0]),  # 12 bits
    ],
)
def test_codes_of_integer_maps_are_no_depth(data: bytes, invalid: tuple[float, ...], values: list[int]) -> None:
    assert depth_values(as_depth_png(data, ".png", invalid)).tolist() == [values]


def test_the_largest_16_bit_value_is_no_depth_in_any_data_set() -> None:
    assert decode_depth(png(0, 256, NO_DEPTH), 256.0).tolist() == [[0.0, 1.0, 0.0]]
    assert depth_values(encode_raw(np.array([[7, NO_DEPTH]], np.uint16))).tolist() == [[7, 0]]


@pytest.mark.parametrize(
    ("data", "suffix", "reason"),
    [
        (b"", ".npy", "empty (0 bytes)"),
        (b"v/1\x01", ".exr", "OpenEXR is not read; write the same metres as .npy or float .tif"),
        (b"II*\0", ".tif", "says it has 0×0 pixels; up to 64 million are read"),
        (tiff(9000, 9000), ".tif", "says it has 9000×9000 pixels; up to 64 million are read"),
        (tiff(2, 3), ".tif", "cannot be decoded as a TIFF image"),
        (b"text", ".tiff", "not a TIFF image"),
        (png(1, 2)[:-1], ".png", "truncated PNG image"),
        (b"text", ".png", "not a PNG image"),
        (
            encoded(np.zeros((2, 3, 3), np.uint8), ".png"),
            ".png",
            "a depth map has one number a pixel, not (2, 3, 3) of uint8",
        ),
        (
            encode_raw(np.array([[20.0, 2000.0, 3000.0]])),
            ".npy",
            "half of its depths lie beyond 2000 m; are these millimetres? Write metres",
        ),
    ],
)
def test_other_maps_are_refused_with_their_reason(data: bytes, suffix: str, reason: str) -> None:
    with pytest.raises(SimipuError) as refused:
        as_depth_png(data, suffix)
    assert str(refused.value) == reason
