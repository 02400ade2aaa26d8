import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.data.images import (
    check_depth,
    check_image,
    decode_depth,
    decode_image,
    depth_values,
    encode_depth,
    encode_jpeg,
    encode_raw,
    image_size,
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


def test_an_orientation_tag_does_not_turn_the_camera() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = files.image(0, ".jpg")
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert check_image(turned) == (files.HEIGHT, files.WIDTH)


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
