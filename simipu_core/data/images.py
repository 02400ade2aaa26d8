"""Camera images and depth maps: bytes to arrays and back.

Every function that reads bytes raises SimipuError with a reason to be put after the file's name.
"""

import io
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.data.npy import MAGIC, parse_npy
from simipu_core.errors import SimipuError

JPEG_QUALITY = 95
NO_DEPTH = np.iinfo(np.uint16).max
"""Value of a depth map that, like 0, is no measurement."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = 33
"""Bytes of signature and first chunk."""
_JPEG = b"\xff\xd8"
_MOST_PIXELS = 1 << 26
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_BITS = (8, 10, 12, 14, 16)
"""Of a camera's pixels that are stored in 16."""
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END, _EXIF, _ADOBE = 0xDA, 0xD9, 0xE1, 0xEE
_CMYK = 4
"""Channels."""
_ORIENTATION = 0x0112
"""EXIF's tag."""
UPRIGHT = 4
"""EXIF's numbers up to this one leave height and width as they are."""
_TIFF_BYTES = {1: 1, 3: 2, 4: 4}
"""Of the types of whole numbers."""
_NO_SEGMENT = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))
"""A byte of data, and markers that stand alone."""
_MOST_SCANS = 64
"""Of a progressive JPEG, each of which visits all pixels; encoders write about ten."""


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width from the header of a PNG or JPEG file, without decoding it.

    Raises:
        SimipuError: empty, or no PNG or JPEG header.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    for marker, position in _jpeg_segments(data):
        if marker in _START_OF_FRAME and position + 7 <= len(data):
            height, width = struct.unpack(">HH", data[position + 3 : position + 7])
            return height, width
        if marker == _START_OF_SCAN:
            break
    raise SimipuError("not a PNG or JPEG image")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG file as its decoder finds them, each with where its length stands; junk is skipped.

    The last is its end mark, unless the file is truncated; what follows is no part of the image.
    """
    position = 2 if data.startswith(_JPEG) else len(data)
    while (position := data.find(b"\xff", position)) >= 0:
        while data[position : position + 1] == b"\xff":
            position += 1
        marker = data[position] if position < len(data) else 0
        position += 1
        if marker not in _NO_SEGMENT:
            yield marker, position
            if marker == _END:
                return
            position += int.from_bytes(data[position : position + 2], "big")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG or JPEG file, or :func:`encode_raw`'s bytes, to (H, W, 3) uint8 RGB.

    Pixels are as stored: an orientation tag is not applied, and transparency left out. Of 16 bits the highest 8 of the
    :func:`bits_used` are taken.

    Raises:
        SimipuError: not decodable, or in colours that cannot be known.
    """
    if data.startswith(MAGIC):
        return _decode_raw(data, np.uint8, 3)
    image = _decoded_colours(data)
    if image.dtype == np.uint16:
        image = image >> (_bits(image) - 8)
    return np.asarray(image, np.uint8)


def bits_used(data: bytes) -> int:
    """Bits of an image file's channels: 8, or where 16 are stored those of a camera that its brightest pixel asks for.

    Raises:
        SimipuError: as for :func:`decode_image`.
    """
    is_deep = data.startswith(_PNG) and data[24:25] == b"\x10"
    return _bits(_decoded_colours(data)) if is_deep else 8


def _bits(image: NDArray[Any]) -> int:
    return next(bits for bits in _BITS if image.max(initial=0) < 1 << bits)


def _decoded_colours(data: bytes) -> NDArray[Any]:
    head = dict(takewhile(lambda segment: segment[0] != _START_OF_SCAN, _jpeg_segments(data)))
    frame = next((position for marker, position in head.items() if marker in _START_OF_FRAME), len(data))
    if data[frame + 7 : frame + 8] == bytes([_CMYK]) and _ADOBE not in head:
        raise SimipuError("is a CMYK image that does not say how its inks are stored; save it in RGB")
    image = _decode(data, _COLOUR)
    if image is None:
        raise SimipuError("cannot be decoded as an image")
    return image


def orientation(data: bytes) -> int:
    """By EXIF's number how viewers turn or mirror a PNG or JPEG file: 1 not, 3 by 180°, 6 by 90° clockwise."""
    tags = b""
    if data.startswith(_PNG):
        tags = next((data[start + 4 : end] for kind, start, end in _png_chunks(data) if kind == b"eXIf"), b"")
    for marker, position in _jpeg_segments(data):
        if marker == _EXIF and data[position + 2 :].startswith(b"Exif\0\0"):
            tags = data[position + 8 : position + int.from_bytes(data[position : position + 2], "big")]
        if tags or marker == _START_OF_SCAN:
            break
    value = tiff_number(tags, _ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else 1


def tiff_number(data: bytes, tag: int) -> int | None:
    """A whole number in the first directory of TIFF data, which EXIF's are too; None where there is none."""
    order: Literal["big", "little"] = "big" if data.startswith(b"MM") else "little"
    first = int.from_bytes(data[4:8], order)
    for entry in range(int.from_bytes(data[first : first + 2], order)):
        start = first + 2 + 12 * entry
        if int.from_bytes(data[start : start + 2], order) == tag:
            length = _TIFF_BYTES.get(int.from_bytes(data[start + 2 : start + 4], order), 0)
            return int.from_bytes(data[start + 8 : start + 8 + length], order)
    return None


def check_pixels(size: tuple[int, int]) -> None:
    """Refuse an image whose header asks for no pixel, or for more than are read."""
    height, width = size
    if not 0 < height * width <= _MOST_PIXELS:
        raise SimipuError(f"says it has {height}×{width} pixels; up to {_MOST_PIXELS >> 20} million are read")


def png_values(data: bytes) -> NDArray[Any]:
    """Values of a whole PNG file in their own type, (H, W) or (H, W, channels).

    Raises:
        SimipuError: what is wrong with it.
    """
    check_png(data)
    values = _decode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise SimipuError("cannot be decoded as a depth PNG")
    return values


def _decode(data: bytes, flags: int) -> NDArray[Any] | None:
    """What OpenCV makes of a PNG or JPEG file whose header asks for a sane number of pixels."""
    try:
        size = image_size(data)
    except SimipuError:
        return None
    check_pixels(size)
    if data.startswith(_PNG):
        deque(_png_chunks(data), 0)
    elif (scans := data.count(bytes((0xFF, _START_OF_SCAN)))) > _MOST_SCANS:  # in data 0xFF is followed by 0
        raise SimipuError(f"has {scans} JPEG scans; up to {_MOST_SCANS} are read")
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return None


def encode_raw(pixels: NDArray[Any]) -> bytes:
    """Pixels as NumPy's own file format, which says their shape and type."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _decode_raw(data: bytes, dtype: type[np.generic], num_axes: int) -> NDArray[Any]:
    try:
        pixels = parse_npy(data)
    except SimipuError as error:
        raise SimipuError(f"damaged raw pixels ({error})") from None
    if pixels.dtype != dtype or pixels.ndim != num_axes or not pixels.flags.c_contiguous:
        raise SimipuError(
            f"raw pixels of {pixels.dtype} with {pixels.ndim} axes, not {np.dtype(dtype)} with {num_axes}"
        )
    return pixels


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG."""
    return _encode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def encode_image(image: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG, without loss."""
    return _encode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.IMWRITE_PNG_COMPRESSION, 1)


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG."""
    return _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.IMWRITE_JPEG_QUALITY, quality)


def decode_depth(data: bytes, scale: float) -> NDArray[np.float32]:
    """Decode a 16-bit depth PNG to (H, W) float32 metres; 0 is no measurement.

    Args:
        data: PNG file.
        scale: metres = value / scale.

    Raises:
        SimipuError: not decodable, or not one channel of 16 bits.
    """
    return (depth_values(data) / np.float32(scale)).astype(np.float32)


def depth_values(data: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit depth PNG, or :func:`encode_raw`'s bytes, to its (H, W) uint16 values.

    `NO_DEPTH`, the largest one, becomes 0: sensors write it for sky, glare and whatever else they did not measure.

    Raises:
        SimipuError: not decodable, or not one channel of 16 bits.
    """
    values = stored_depth(data)
    is_code = values == NO_DEPTH
    return np.where(is_code, np.uint16(0), values) if is_code.any() else values


def stored_depth(data: bytes) -> NDArray[np.uint16]:
    """The same, with `NO_DEPTH` as it is stored."""
    if data.startswith(MAGIC):
        return _decode_raw(data, np.uint16, 2)
    values = _decode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise SimipuError("cannot be decoded as a depth PNG")
    if values.dtype != np.uint16 or values.ndim != 2:
        raise SimipuError("not a depth PNG of one channel with 16 bits")
    return np.asarray(values, np.uint16)


def encode_depth(depth: NDArray[np.floating], scale: float, notes: Mapping[str, str] | None = None) -> bytes:
    """Encode (H, W) metres as a 16-bit PNG, rounded to the nearest 1/scale metres; 0 is no measurement.

    Args:
        depth: (H, W) metres.
        scale: values of a metre.
        notes: texts to store in the file (``tEXt``) by keyword, Latin-1.

    Raises:
        SimipuError: a depth does not fit 16 bits at this scale.
    """
    values = np.rint(depth * scale)
    if values.max(initial=0) >= NO_DEPTH:
        raise SimipuError(
            f"a depth of {depth.max():.0f} m does not fit 16 bits at {scale:g} steps a metre; lower pair.depth_range."
        )
    png = _encode(".png", values.astype(np.uint16))
    texts = b"".join(_png_chunk(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in (notes or {}).items())
    return png[:_PNG_HEAD] + texts + png[_PNG_HEAD:]


def png_notes(data: bytes) -> dict[str, str]:
    """The texts of a PNG file (``tEXt``) by keyword.

    Raises:
        SimipuError: truncated.
    """
    texts = (data[start + 4 : end] for kind, start, end in _png_chunks(data) if kind == b"tEXt")
    return {key: text for key, _, text in (each.decode("latin-1").partition("\0") for each in texts)}


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def check_image(data: bytes) -> tuple[int, int]:
    """Check that an image file is whole, by its checksums and end mark, and decodes; return height and width.

    Raises:
        SimipuError: what is wrong with it.
    """
    height, width, _ = decode_whole(data).shape
    return height, width


def decode_whole(data: bytes) -> NDArray[np.uint8]:
    """The same as :func:`decode_image` of a PNG or JPEG file, which must be whole by its checksums and end mark.

    Raises:
        SimipuError: what is wrong with it.
    """
    size = image_size(data)
    if data.startswith(_PNG):
        check_png(data)
    elif not any(marker == _END for marker, _ in _jpeg_segments(data)):
        raise SimipuError("truncated JPEG image")
    image = decode_image(data)
    if image.shape[:2] != size:
        raise SimipuError("decodes to another size than its header says")
    return image


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An image (H, W, …) as viewers show it.

    Args:
        image: pixels as stored.
        orientation: EXIF's number, 1 to 8.
    """
    if orientation > UPRIGHT:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def check_depth(data: bytes, size: tuple[int, int]) -> None:
    """Check that a depth file is a whole 16-bit PNG of the image's size with at least one measurement.

    Raises:
        SimipuError: what is wrong with it.
    """
    if not data:
        raise SimipuError("empty (0 bytes)")
    check_png(data)
    values = depth_values(data)
    if values.shape != size:
        (height, width), (rows, columns) = size, values.shape
        raise SimipuError(f"{rows}×{columns} pixels, but its image is {height}×{width}")
    if not values.any():
        raise SimipuError("has no pixel with a measurement")


def check_png(data: bytes) -> None:
    """Check each chunk of a PNG file: OpenCV decodes damaged ones without complaint.

    Raises:
        SimipuError: what is wrong with it.
    """
    if not data.startswith(_PNG):
        raise SimipuError("not a PNG image")
    view = memoryview(data)
    for kind, start, end in _png_chunks(data):
        if zlib.crc32(view[start:end]) != int.from_bytes(data[end : end + 4], "big"):
            raise SimipuError("corrupt PNG image (wrong checksum)")
        if kind == b"IEND":
            return
    raise SimipuError("truncated PNG image")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind, and where what its checksum is of begins and ends.

    Raises:
        SimipuError: one says that it is longer than the file; OpenCV would take memory for it.
    """
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise SimipuError("truncated PNG image")
        yield kind, position + 4, end
        position = end + 4


def _encode(suffix: str, image: NDArray[Any], *params: int) -> bytes:
    done, data = cv2.imencode(suffix, image, params)
    if not done:
        raise SimipuError(f"an image of shape {image.shape} cannot be encoded as {suffix}")
    return bytes(data)
