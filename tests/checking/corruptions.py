"""Kinds of corruption, each a small change of a valid data set."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.calibration import rotation
from tests.checking.datasets import DataSet, Part, WaymoDataSet

Corrupt = Callable[[DataSet, Path], None]


class Corruption(NamedTuple):
    """One kind."""

    name: str
    part: Part
    """Data sets without this part cannot have it."""
    corrupt: Corrupt
    in_parquet: bool = True
    """Whether it can befall a part that is a cell of a Parquet file."""


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _content(part: Part, change: Callable[[bytes], bytes]) -> Corrupt:
    return lambda data, root: data.write(root, part, change(data.read(root, part)))


def _picture(change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Corrupt:
    def corrupt(data: DataSet, root: Path) -> None:
        old = data.read(root, "image")
        suffix = ".png" if old.startswith(b"\x89PNG") else ".jpg"
        data.write(root, "image", bytes(cv2.imencode(suffix, change(_pixels(old)))[1]))

    return corrupt


def _depth(change: Callable[[NDArray[np.uint16]], NDArray[np.integer]]) -> Corrupt:
    def corrupt(data: DataSet, root: Path) -> None:
        values = cv2.imdecode(np.frombuffer(data.read(root, "depth"), np.uint8), cv2.IMREAD_UNCHANGED)
        data.write(root, "depth", bytes(cv2.imencode(".png", change(np.asarray(values, np.uint16)))[1]))

    return corrupt


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
    return bytes(cv2.imencode(".jpg" if data.startswith(b"\x89PNG") else ".png", _pixels(data))[1])


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


def _set(points: NDArray[np.float32], value: float) -> None:
    points[len(points) // 2, 0] = value


def _scale(factor: float) -> Callable[[NDArray[np.uint16]], NDArray[np.uint16]]:
    return lambda values: np.clip(np.rint(values * factor), 0, 65535).astype(np.uint16)


def _swap_times(file: Path) -> None:
    lines = file.read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    file.write_text("\n".join(lines) + "\n")


def _no_time(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "yesterday at noon", *lines[2:]]) + "\n")


def _transposed(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return matrix.T


def _sheared(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(matrix @ np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.1]]))


CORRUPTIONS = (
    Corruption("image truncated", "image", _content("image", _cut)),
    Corruption("image of zero bytes", "image", _content("image", lambda _: b"")),
    Corruption("image with a flipped bit", "image", _content("image", _flip_bit)),
    Corruption("image is a text", "image", _content("image", lambda _: b"404 not found\n")),
    Corruption("image in another format than its name", "image", _content("image", _other_format), in_parquet=False),
    Corruption("image with another suffix", "image", _file("image", lambda f: f.rename(f.with_suffix(".bmp")))),
    Corruption("image missing", "image", _file("image", lambda file: file.unlink())),
    Corruption("folder in place of the image", "image", _file("image", _folder)),
    Corruption("image cannot be opened (link to itself)", "image", _file("image", _loop)),
    Corruption("image is a link out of the root", "image", _link_out),
    Corruption("image of another size", "image", _picture(lambda image: np.ascontiguousarray(image[:-8, :-16]))),
    Corruption("image black", "image", _picture(np.zeros_like)),
    Corruption(
        "image without colour", "image", _picture(lambda i: np.repeat(i.mean(2, keepdims=True), 3, 2).astype(np.uint8))
    ),
    Corruption("image is a copy of another frame's", "image", _copy("image")),
    Corruption("scan truncated", "scan", _file("scan", lambda file: file.write_bytes(_cut(file.read_bytes())))),
    Corruption("scan of zero bytes", "scan", _file("scan", lambda file: file.write_bytes(b""))),
    Corruption("scan missing", "scan", _file("scan", lambda file: file.unlink())),
    Corruption("folder in place of the scan", "scan", _file("scan", _folder)),
    Corruption("scan with a NaN", "scan", _points(lambda points: _set(points, np.nan))),
    Corruption("scan with an infinity", "scan", _points(lambda points: _set(points, np.inf))),
    Corruption("scan of ten points", "scan", _content("scan", lambda data: data[: 16 * 30]), in_parquet=False),
    Corruption("scan is a copy of another frame's", "scan", _copy("scan"), in_parquet=False),
    Corruption("scan exchanged with another frame's", "scan", _exchange_scans, in_parquet=False),
    Corruption("calibration missing", "calibration", _file("calibration", lambda file: file.unlink())),
    Corruption(
        "calibration is not text", "calibration", _file("calibration", lambda file: file.write_bytes(b"\xff\xfe" * 40))
    ),
    Corruption("calibration lacks a line", "calibration", lambda data, root: data.spoil_calibration(root, "drop")),
    Corruption("calibration with NaN", "calibration", lambda data, root: data.spoil_calibration(root, "nan")),
    Corruption(
        "rotation transposed (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, _transposed),
        in_parquet=False,  # the rotation there is nearly none: transposing it changes little
    ),
    Corruption(
        "rotation left-handed (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, lambda matrix: np.diag([-1.0, 1, 1]) @ matrix),
    ),
    Corruption("rotation sheared (all)", "calibration", lambda data, root: data.edit_extrinsics(root, _sheared)),
    Corruption(
        "calibration turned by 2° (all)",
        "calibration",
        lambda data, root: data.edit_extrinsics(root, lambda matrix: rotation(0, np.deg2rad(2), 0) @ matrix),
    ),
    Corruption(
        "calibration of the neighbouring camera (all)",
        "calibration",
        lambda data, root: data.swap_cameras(root),
        in_parquet=False,
    ),
    Corruption("depth map truncated", "depth", _content("depth", _cut)),
    Corruption("depth map missing", "depth", _file("depth", lambda file: file.unlink())),
    Corruption("depth map of 8 bits", "depth", _depth(lambda values: (values >> 8).astype(np.uint8))),
    Corruption("depth map of another size", "depth", _depth(lambda values: values[::2, ::2])),
    Corruption("depth map all zero", "depth", _depth(np.zeros_like)),
    Corruption("depth 1000/256 times too large", "depth", _depth(_scale(1000 / 256))),
    Corruption("depth 1000/256 times too small", "depth", _depth(_scale(256 / 1000))),
    Corruption("depth map of another frame", "depth", _copy("depth")),
    Corruption("timestamps swapped", "times", _file("times", _swap_times)),
    Corruption("timestamp is not a time", "times", _file("times", _no_time)),
)


def applies(corruption: Corruption, data: DataSet) -> bool:
    """Whether a data set can have this corruption."""
    return corruption.part in data.parts and (corruption.in_parquet or not isinstance(data, WaymoDataSet))
