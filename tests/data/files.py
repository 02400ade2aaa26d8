"""Tiny raw data sets in their public layouts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 24, 80
P2 = np.array([[60.0, 0.0, 40.0, 3.0], [0.0, 60.0, 12.0, 0.1], [0.0, 0.0, 1.0, 0.002]])
RECTIFY = np.array([[0.9999, 0.01, -0.007], [-0.0099, 0.9999, -0.004], [0.007, 0.004, 0.9999]])
VELO_TO_CAM = np.array([[0.007, -1.0, 0.0, -0.004], [0.015, 0.0, -1.0, -0.076], [1.0, 0.007, 0.015, -0.27]])
DRIVE = "2011_09_26_drive_0001_sync"


def homogeneous(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.eye(4)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


PROJECTION = homogeneous(P2) @ homogeneous(RECTIFY) @ homogeneous(VELO_TO_CAM)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def image(seed: int = 0, suffix: str = ".png", size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return bytes(cv2.imencode(suffix, pixels)[1])


def depth(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    values = np.random.default_rng(seed).integers(256, 256 * 60, size, dtype=np.uint16)
    values[::2] = 0
    return bytes(cv2.imencode(".png", values)[1])


def scan(seed: int = 0, ahead: int = 300, behind: int = 500) -> NDArray[np.float32]:
    """Points (N, 4); those ahead land well inside the image."""
    rng = np.random.default_rng(seed)
    forward = rng.uniform(5, 40, ahead)
    side, up = rng.uniform(-0.5, 0.5, ahead), rng.uniform(-0.15, 0.15, ahead)
    front = np.stack([forward, forward * side, forward * up, rng.uniform(0, 1, ahead)], axis=1)
    back = rng.uniform([-40, -20, -2, 0], [-1, 20, 2, 1], (behind, 4))
    return rng.permutation(np.concatenate([front, back])).astype("<f4")


def line(label: str, values: NDArray[np.float64]) -> str:
    return f"{label}: {' '.join(repr(float(value)) for value in values.ravel())}\n"


def object_calibration() -> str:
    lines = [line(f"P{camera}", P2) for camera in range(4)]
    return "".join([*lines, line("R0_rect", RECTIFY), line("Tr_velo_to_cam", VELO_TO_CAM)])


def kitti_object(root: Path, count: int = 4) -> Path:
    """Write `count` frames; answer the training folder."""
    training = root / "kitti_object/training"
    for index in range(count):
        write(training / f"image_2/{index:06d}.png", image(index))
        write(training / f"velodyne/{index:06d}.bin", scan(index).tobytes())
        write(training / f"calib/{index:06d}.txt", object_calibration())
    return training


def raw_calibration(date: Path) -> None:
    velo = line("R", VELO_TO_CAM[:, :3]) + line("T", VELO_TO_CAM[:, 3])
    write(date / "calib_velo_to_cam.txt", "calib_time: 15-Mar-2012 11:37:16\n" + velo)
    write(date / "calib_cam_to_cam.txt", line("R_rect_00", RECTIFY) + line("P_rect_02", P2))


def kitti_raw(root: Path, drives: Mapping[str, Iterable[int]], *, scans: bool = True) -> Path:
    """Write drives with the given frame indices; answer the folder of dates."""
    folder = root / "kitti_raw"
    for drive, indices in drives.items():
        date = folder / drive[:10]
        raw_calibration(date)
        for index in indices:
            write(date / drive / f"image_02/data/{index:010d}.png", image(index))
            if scans:
                write(date / drive / f"velodyne_points/data/{index:010d}.bin", scan(index).tobytes())
    return folder


def kitti_truth(folder: Path, drives: Mapping[str, Iterable[int]]) -> None:
    for drive, indices in drives.items():
        for index in indices:
            write(folder / drive / f"proj_depth/groundtruth/image_02/{index:010d}.png", depth(index))


def nyu(folder: Path, scenes: Mapping[str, Iterable[int]]) -> None:
    for scene, indices in scenes.items():
        for index in indices:
            write(folder / scene / f"rgb_{index:05d}.jpg", image(index, ".jpg"))
            write(folder / scene / f"sync_depth_{index:05d}.png", depth(index))
