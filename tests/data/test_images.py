import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simipu_core.data.images import (
    bits_used,
    check_depth,
    check_image,
    decode_depth,
    decode_image,
    depth_values,
    encode_depth,
    encode_jpeg,
    encode_raw,
    image_size,
    orientation,
)
from simipu_core.errors import SimipuError
from tests.data import files


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_reads_size_and_pixels_of_png_and_jpeg(suffix: str) -> None:
    data = files.image(1, suffix)
    assert image_size(data) == check_image(data) == (files.HEIGHT, files.WIDTH)
    assert decode_image(data).shape == (files.HEIGHT, files.WIDTH, 3)


def test_decodes_to_rgb() -> None:
    red_first = np.zeros((2, 2, 3), np.uint8)
    red_first[..., 2] = 200  # OpenCV writes blue, green, red
    assert decode_image(bytes(cv2.imencode(".png", red_first)[1]))[0, 0].tolist() == [200, 0, 0]


def test_jpeg_keeps_colours_and_size() -> None:
    image = np.full((16, 24, 3), (200, 100, 30), np.uint8)
    assert np.abs(decode_image(encode_jpeg(image)).astype(int) - image).max() <= 3


def test_raw_pixels_come_back_as_they_were() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 9, 3), np.uint8)[:, ::-1]
    np.testing.assert_array_equal(decode_image(encode_raw(image)), image)
    depth = rng.integers(0, 1 << 16, (7, 9), np.uint16)
    np.testing.assert_array_equal(depth_values(encode_raw(depth)), depth)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_raw(np.zeros((4, 5), np.uint16)), "raw pixels of uint16 with 2 axes, not uint8 with 3"),
        (encode_raw(np.zeros((4, 5, 3), np.uint8))[:-1], "damaged raw pixels"),
        (encode_raw(np.zeros((4, 5, 3), np.uint8))[:20], "damaged raw pixels"),
        (b"\x93NUMPY\x01\x00", "damaged raw pixels"),
        (encode_raw(np.asfortranarray(np.zeros((4, 5, 3), np.uint8))).replace(b"False", b"True "), "raw pixels of"),
    ],
)
def test_damaged_or_other_raw_pixels_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(SimipuError, match=reason):
        decode_image(data)


@given(st.binary(max_size=200))
def test_no_bytes_after_the_raw_mark_do_harm(data: bytes) -> None:
    with pytest.raises(SimipuError):
        decode_image(b"\x93NUMPY" + data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "not a PNG or JPEG"),
        (files.image()[:-30], "truncated PNG"),
        (files.image()[: len(files.image()) // 2], "truncated PNG"),
        (files.image()[:1000] + b"\0\0\0\0" + files.image()[1004:], "corrupt PNG"),
        (files.image(0, ".jpg")[:-200], "truncated JPEG"),
        (files.image(0, ".jpg")[:2], "not a PNG or JPEG"),
    ],
)
def test_a_damaged_image_is_found_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SimipuError, match=reason):
        check_image(data)


def test_undecodable_bytes_raise() -> None:
    for data in (b"", b"nothing"):
        with pytest.raises(SimipuError, match="cannot be decoded"):
            decode_image(data)
        with pytest.raises(SimipuError, match="cannot be decoded"):
            decode_depth(data, 256)


@given(depth=st.lists(st.floats(0, 255), min_size=1, max_size=30), scale=st.sampled_from([256.0, 200.0]))
def test_depth_comes_back_within_half_a_step(depth: list[float], scale: float) -> None:
    metres = np.array([depth])
    decoded = decode_depth(encode_depth(metres, scale), scale)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, metres, atol=0.5 / scale + 1e-5)


def test_depth_too_far_for_16_bits_is_refused() -> None:
    with pytest.raises(SimipuError, match="300 m does not fit"):
        encode_depth(np.array([[300.0]]), 256)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (files.image(0, ".jpg"), "not a PNG"),
        (files.image(), "one channel with 16 bits"),
        (files.depth(size=(24, 70)), "24×70 pixels, but its image is 24×80"),
        (encode_depth(np.zeros((24, 80)), 256), "no pixel with a measurement"),
        (files.depth()[:-20], "truncated"),
    ],
)
def test_a_damaged_depth_map_is_found_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SimipuError, match=reason):
        check_depth(data, (files.HEIGHT, files.WIDTH))


def test_a_sound_depth_map_passes() -> None:
    check_depth(files.depth(), (files.HEIGHT, files.WIDTH))


# -- what cameras and other programs write -----------------------------------------------------------------------------

COLOUR = (200, 100, 30)


def written(colour: tuple[int, ...], mode: str, kind: str = "PNG") -> bytes:
    """A picture of one colour, written by Pillow."""
    buffer = io.BytesIO()
    Image.new(mode, (files.WIDTH, files.HEIGHT), colour).save(buffer, kind)
    return buffer.getvalue()


def deep(bits: int, channels: int) -> bytes:
    """A PNG of 16 bits whose camera has fewer: the colour, with one pixel of the brightest value."""
    pixels = np.full((8, 8, 4), (*COLOUR[::-1], 255), np.uint16) << (bits - 8)
    pixels[0, 0, :3] = (1 << bits) - 1
    return bytes(cv2.imencode(".png", pixels[..., :channels] if channels > 1 else pixels[..., 0])[1])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(("channels", "expected"), [(1, (30, 30, 30)), (3, COLOUR), (4, COLOUR)])
def test_of_16_bits_the_highest_8_that_the_camera_uses_are_read(
    bits: int, channels: int, expected: tuple[int, int, int]
) -> None:
    data = deep(bits, channels)
    assert bits_used(data) == bits
    assert check_image(data) == (8, 8)
    assert tuple(decode_image(data)[3, 4]) == expected
    assert tuple(decode_image(data)[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (written((*COLOUR, 0), "RGBA"), COLOUR),
        (written((100, 7), "LA"), (100, 100, 100)),
        (written((100,), "L"), (100, 100, 100)),
        (written((1,), "1"), (255, 255, 255)),
        (written((100,), "L", "JPEG"), (100, 100, 100)),
        (written((55, 155, 225, 0), "CMYK", "JPEG"), COLOUR),
    ],
    ids=["alpha", "grey with alpha", "grey", "one bit", "grey JPEG", "CMYK"],
)
def test_other_colour_types_are_read_as_rgb(data: bytes, expected: tuple[int, int, int]) -> None:
    assert bits_used(data) == 8
    assert check_image(data) == (files.HEIGHT, files.WIDTH)
    assert np.abs(decode_image(data)[3, 4].astype(int) - expected).max() <= 1


def test_cmyk_that_does_not_say_how_its_inks_are_stored_is_refused() -> None:
    data = written((55, 155, 225, 0), "CMYK", "JPEG")
    start = data.index(b"\xff\xee")
    without = data[:start] + data[start + 16 :]
    with pytest.raises(
        SimipuError, match=r"^is a CMYK image that does not say how its inks are stored; save it in RGB$"
    ):
        check_image(without)


def test_fill_bytes_before_markers_and_bytes_after_the_end_are_no_damage() -> None:
    jpeg = files.image(0, ".jpg")
    filled, position = jpeg[:2], 2
    while (marker := jpeg[position + 1]) != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        filled += b"\xff\xff" + jpeg[position:end]
        position = end
        assert marker != 0xD9
    filled += b"\xff" + jpeg[position:-2] + b"\xff\xff" + jpeg[-2:]
    for data in (filled, jpeg + bytes(50), jpeg + b"\xff\xd8\xff\xda and more"):
        assert check_image(data) == (files.HEIGHT, files.WIDTH)
        np.testing.assert_array_equal(decode_image(data), decode_image(jpeg))
    with pytest.raises(SimipuError, match="truncated JPEG"):
        check_image(filled[:-2])


def with_orientation(number: int, order: str, kind: str) -> bytes:
    value = number.to_bytes(2, "big" if order == "MM" else "little")
    begin, tag = {
        "MM": (b"MM\0*\0\0\0\x08\0\x01", b"\x01\x12\0\x03\0\0\0\x01"),
        "II": (b"II*\0\x08\0\0\0\x01\0", b"\x12\x01\x03\0\x01\0\0\0"),
    }[order]
    tags = begin + tag + value + bytes(6)
    if kind == ".jpg":
        jpeg, exif = files.image(0, ".jpg"), b"Exif\0\0" + tags
        return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    chunk, png = b"eXIf" + tags, files.image()
    return png[:33] + len(tags).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + png[33:]


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("order", ["MM", "II"])
def test_the_orientation_tag_is_found_and_not_followed(kind: str, order: str) -> None:
    for number in (1, 3, 6, 8):
        data = with_orientation(number, order, kind)
        assert orientation(data) == number
        np.testing.assert_array_equal(decode_image(data), decode_image(files.image(0, kind)))
    assert orientation(files.image(0, kind)) == orientation(b"") == 1
