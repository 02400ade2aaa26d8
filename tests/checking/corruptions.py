"""Kinds of corruption, each a small change of a valid data set."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.calibration import rotation
from tests.checking.datasets import DataSet, NuscenesDataSet, NyuLabelledDataSet, Part, decoded

Corrupt = Callable[[DataSet, Path], None]


class Corruption(NamedTuple):
    """One kind."""

    name: str
    part: Part
    """Data sets without this part cannot have it."""
    corrupt: Corrupt
    never: tuple[str, ...] = ()
    """Kinds of source that have the part, but cannot have this."""
    only: tuple[str, ...] = ()
    """Kinds of source that alone can have this; none: all."""


def _content(part: Part, change: Callable[[bytes], bytes]) -> Corrupt:
    return lambda data, root: data.write(root, part, change(data.read(root, part)))


def _picture(change: Callable[[NDArray[np.uint8]], NDArray[np.unsignedinteger]]) -> Corrupt:
    return lambda data, root: data.edit_image(root, change)


def _depth(change: Callable[[NDArray[np.uint16]], NDArray[np.integer]]) -> Corrupt:
    return lambda data, root: data.edit_depth(root, change)


def _points(change: Callable[[NDArray[np.float32]], None]) -> Corrupt:
    return lambda data, root: data.edit_points(root, change)


def _copy(part: Part) -> Corrupt:
    return lambda data, root: data.write(root, part, data.read(root, part, "other"))


def _exchange_scans(data: DataSet, root: Path) -> None:
    mine, other = data.read(root, "scan"), data.read(root, "scan", "other")
    data.write(root, "scan", other)
    (root / data.other["scan"]).write_bytes(mine)


def _file(part: Part, change: Callable[[Path], object]) -> Corrupt:
    return lambda data, root: _nothing(change(root / data.parts[part]))


def _nothing(_: object) -> None:
    return


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3 - 1]


def _flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def _other_format(data: bytes) -> bytes:
    return bytes(cv2.imencode(".jpg" if data.startswith(b"\x89PNG") else ".png", decoded(data))[1])


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _link_out(data: DataSet, root: Path) -> None:
    file, outside = root / data.parts["image"], root.with_name(f"{root.name}.outside")
    outside.mkdir()
    file.rename(outside / file.name)
    file.symlink_to(outside / file.name)


def _both_formats(data: DataSet, root: Path) -> None:
    file = root / data.parts["image"]
    other = ".jpg" if file.suffix == ".png" else ".png"
    file.with_suffix(other).write_bytes(_other_format(file.read_bytes()))


def _hide_beside(data: DataSet, root: Path) -> None:
    """What macOS writes beside each file on disks of other systems."""
    for file in [path for folder in data.folders for path in (root / folder).rglob("*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")


def _tagged(data: bytes) -> bytes:
    """With an EXIF tag by which viewers turn the image by 90°."""
    tags = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    if data.startswith(b"\x89PNG"):
        chunk = b"eXIf" + tags
        return data[:33] + len(tags).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]
    exif = b"Exif\0\0" + tags
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def _twelve_bits(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return (image.astype(np.uint16) << 4 | 15).astype(np.uint16)


def _no_returns(points: NDArray[np.float32]) -> None:
    points[::4, :3] = 0
    points[1::8] = points[2]


def _another_float(data: DataSet, root: Path) -> None:
    points = np.frombuffer(data.read(root, "scan"), "<f4").reshape(-1, data.columns)
    ring = np.arange(len(points), dtype=np.float32)[:, None] % 64
    data.write(root, "scan", np.hstack([points, ring]).astype("<f4").tobytes())


def _set(points: NDArray[np.float32], value: float) -> None:
    points[len(points) // 2, 0] = value


def _multiply(numbers: NDArray[np.float32], factor: float) -> None:
    numbers *= factor


def _scale(factor: float) -> Callable[[NDArray[np.uint16]], NDArray[np.uint16]]:
    return lambda values: np.clip(np.rint(values * factor), 0, 65535).astype(np.uint16)


def _spoil_depth(value: float) -> Corrupt:
    def corrupt(data: DataSet, root: Path) -> None:
        assert isinstance(data, NyuLabelledDataSet)
        data.spoil_depth(root, value)

    return corrupt


def _scale_quaternions(data: DataSet, root: Path) -> None:
    assert isinstance(data, NuscenesDataSet)
    data.scale_rotation(root, 1.1)


def _transposed(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix.T


def _sheared(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(matrix @ np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.1]]))


CORRUPTIONS = (
    Corruption("image truncated", "image", _content("image", _cut)),
    Corruption("image of zero bytes", "image", _content("image", lambda _: b""), never=("nyu_labelled",)),
    Corruption("image with a flipped bit", "image", _content("image", _flip_bit)),
    Corruption("image is a text", "image", _content("image", lambda _: b"404 not found\n")),
    Corruption(
        "image in another format than its name",
        "image",
        _content("image", _other_format),
        never=("waymo", "nyu_labelled"),
    ),
    Corruption("image with another suffix", "image", _file("image", lambda f: f.rename(f.with_suffix(".bmp")))),
    Corruption("image missing", "image", _file("image", lambda file: file.unlink())),
    Corruption("folder in place of the image", "image", _file("image", _folder)),
    Corruption("image cannot be opened (link to itself)", "image", _file("image", _loop)),
    Corruption("image is a link out of the root", "image", _link_out, never=("nyu_labelled",)),
    Corruption(
        "image of another size",
        "image",
        _picture(lambda image: np.ascontiguousarray(image[:-8, :-16])),
        never=("nyu_labelled",),
    ),
    Corruption("image black", "image", _picture(np.zeros_like)),
    Corruption(
        "image without colour", "image", _picture(lambda i: np.repeat(i.mean(2, keepdims=True), 3, 2).astype(np.uint8))
    ),
    Corruption("image is a copy of another frame's", "image", _copy("image")),
    Corruption(
        "image of 12 bits in 16", "image", _picture(_twelve_bits), only=("kitti_object", "kitti_raw", "kitti_depth")
    ),
    Corruption("image that viewers turn (EXIF)", "image", _content("image", _tagged), never=("nyu_labelled",)),
    Corruption(
        "image both as .png and as .jpg",
        "image",
        _both_formats,
        never=("waymo", "nuscenes", "nyu_labelled"),  # whose tables name each file
    ),
    Corruption("hidden files beside all others (all)", "image", _hide_beside),
    Corruption("scan truncated", "scan", _file("scan", lambda file: file.write_bytes(_cut(file.read_bytes())))),
    Corruption("scan of zero bytes", "scan", _file("scan", lambda file: file.write_bytes(b""))),
    Corruption("scan missing", "scan", _file("scan", lambda file: file.unlink())),
    Corruption("folder in place of the scan", "scan", _file("scan", _folder)),
    Corruption("scan with a NaN", "scan", _points(lambda points: _set(points, np.nan))),
    Corruption("scan with an infinity", "scan", _points(lambda points: _set(points, np.inf))),
    Corruption("scan with points without a return, and twice", "scan", _points(_no_returns), never=("waymo",)),
    Corruption("scan of one more float a point", "scan", _another_float, never=("waymo",)),
    Corruption("scan of ten points", "scan", _content("scan", lambda data: data[: 16 * 30]), never=("waymo",)),
    Corruption("scan is a copy of another frame's", "scan", _copy("scan"), never=("waymo",)),
    Corruption("scan exchanged with another frame's", "scan", _exchange_scans, never=("waymo",)),
    Corruption("scan in millimetres", "scan", _points(lambda points: _multiply(points[:, :3], 1000)), never=("waymo",)),
    Corruption(
        "reflectance 255 times too small",
        "scan",
        _points(lambda points: _multiply(points[:, 3], 1 / 255)),
        never=("waymo",),
    ),
    Corruption("calibration missing", "calibration", _file("calibration", lambda file: file.unlink())),
    Corruption(
        "calibration is not text", "calibration", _file("calibration", lambda file: file.write_bytes(b"\xff\xfe" * 40))
    ),
    Corruption(
        "calibration with a byte-order mark",
        "calibration",
        _file("calibration", lambda file: file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())),
        never=("waymo",),
    ),
    Corruption("calibration lacks a line", "calibration", lambda data, root: data.spoil_calibration(root, "drop")),
    Corruption("calibration with NaN", "calibration", lambda data, root: data.spoil_calibration(root, "nan")),
    Corruption(
        "rotation transposed (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, _transposed),
        never=("waymo",),  # the rotation there is nearly none: transposing it changes little
    ),
    Corruption(
        "rotation left-handed (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, lambda matrix: np.diag([-1.0, 1, 1]) @ matrix),
        never=("nuscenes",),  # quaternions cannot say so
    ),
    Corruption(
        "rotation sheared (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, _sheared),
        never=("nuscenes",),
    ),
    Corruption(
        "rotation is no unit quaternion (all)",
        "calibration",
        _scale_quaternions,
        only=("nuscenes",),
    ),
    Corruption(
        "calibration turned by 2° (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, lambda matrix: rotation(0, np.deg2rad(2), 0) @ matrix),
    ),
    Corruption(
        "calibration of the neighbouring camera (all)",
        "calibration",
        lambda data, root: data.swap_cameras(root),
        never=("waymo", "logs"),
    ),
    Corruption("depth map truncated", "depth", _content("depth", _cut)),
    Corruption("depth map missing", "depth", lambda data, root: data.remove_depth(root)),
    Corruption("depth map of 8 bits", "depth", _depth(lambda values: (values >> 8).astype(np.uint8))),
    Corruption("depth map of another size", "depth", _depth(lambda values: values[::2, ::2])),
    Corruption("depth map all zero", "depth", _depth(np.zeros_like)),
    Corruption("depth 1000/256 times too large", "depth", _depth(_scale(1000 / 256))),
    Corruption("depth 1000/256 times too small", "depth", _depth(_scale(256 / 1000))),
    Corruption("depth 10 % too large", "depth", _depth(_scale(1.1))),
    Corruption(
        "depth map with 65535 in its holes",
        "depth",
        _depth(lambda values: np.where(values == 0, np.uint16(65535), values)),
        never=("nyu_labelled",),
    ),
    Corruption("depth map of another frame", "depth", _copy("depth")),
    Corruption("depth map with NaN", "depth", _spoil_depth(np.nan), only=("nyu_labelled",)),
    Corruption("depth map with an infinity", "depth", _spoil_depth(np.inf), only=("nyu_labelled",)),
    Corruption("depth map with 1e30 m", "depth", _spoil_depth(1e30), only=("nyu_labelled",)),
    Corruption("depth map with a depth below 0", "depth", _spoil_depth(-1), only=("nyu_labelled",)),
    Corruption("timestamps swapped", "times", lambda data, root: data.swap_times(root), never=("logs",)),
    Corruption("timestamp is not a time", "times", lambda data, root: data.spoil_time(root)),
)


def applies(corruption: Corruption, data: DataSet) -> bool:
    """Whether a data set can have this corruption."""
    return (
        corruption.part in data.parts
        and data.kind not in corruption.never
        and data.kind in (corruption.only or (data.kind,))
    )
