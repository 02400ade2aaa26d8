"""Depth maps in common file formats, as the 16-bit PNG that everything else reads."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.frames import FLOAT_SCALE
from simipu_core.data.images import NO_DEPTH, check_pixels, encode_depth, png_values, tiff_number
from simipu_core.data.npy import parse_npy
from simipu_core.errors import SimipuError

_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
"""Tags."""


def as_depth_png(data: bytes, suffix: str, invalid: tuple[float, ...] = ()) -> bytes:
    """A depth map as a PNG of one channel with 16 bits.

    Args:
        data: content of the file.
        suffix: one of `DEPTH_SUFFIXES`. A .png keeps its values, of 8 or 16 bits; the others hold metres in any numeric
            type, and are written with `FLOAT_SCALE`.
        invalid: stored values that are no measurement, beside 0, the largest value of an integer type, negative ones,
            NaN and infinities.

    Returns:
        A PNG with 0 where nothing was measured.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    if suffix == ".exr":
        raise SimipuError("OpenEXR is not read; write the same metres as .npy or float .tif")
    values = _values(data, suffix)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise SimipuError(f"a depth map has one number a pixel, not {values.shape} of {values.dtype}")
    measured = np.isfinite(values) & (values > 0) & ~np.isin(values, invalid)
    if values.dtype.kind in "ui":
        measured &= values < np.iinfo(values.dtype).max
    steps = 1.0 if suffix == ".png" else FLOAT_SCALE
    largest = (NO_DEPTH - 1) / steps
    if measured.any() and (median := np.median(values[measured])) > largest:
        raise SimipuError(f"half of its depths lie beyond {median:g} m; are these millimetres? Write metres")
    measured &= values <= largest
    return encode_depth(np.where(measured, values, 0).astype(np.float64), steps)


def _values(data: bytes, suffix: str) -> NDArray[Any]:
    if suffix == ".npy":
        values = parse_npy(data)
        return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if suffix == ".png":
        return png_values(data)
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise SimipuError("not a TIFF image")
    check_pixels((tiff_number(data, _TIFF_HEIGHT) or 0, tiff_number(data, _TIFF_WIDTH) or 0))
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        found = None
    if found is None:
        raise SimipuError("cannot be decoded as a TIFF image")
    return np.asarray(found)
