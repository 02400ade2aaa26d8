"""Tiny raw data sets of every kind, and one that is read as a whole: listed, examined, packed."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simipu_core.config import PairConfig
from simipu_core.data import catalogue
from simipu_core.data.formats import waymo_segments
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.pairing import Packed, pack_depth, pack_pair
from simipu_core.data.schema import CATALOGUE, CatalogueRow, FrameRow
from simipu_core.data.sources import nyu_labelled, source_named
from tests.data import clouds, files
from tests.data.test_logs import calibration
from tests.sources import any_source
from tests.worlds import World, synthesize

KINDS = ("kitti_object", "kitti_raw", "kitti_depth", "nyu", "logs", "waymo", "nuscenes", "nyu_labelled")
POINTS = files.scan(0, 40, 20)
XYZI = {name: POINTS[:, index] for index, name in enumerate(("x", "y", "z", "intensity"))}
SCANS = {
    "plain.bin": POINTS.tobytes(),
    "plain.npy": clouds.npy(POINTS),
    "ascii.pcd": clouds.pcd(POINTS, "ascii"),
    "binary.pcd": clouds.pcd(POINTS, "binary"),
    "compressed.pcd": clouds.pcd(POINTS, "binary_compressed"),
    "ascii.ply": clouds.ply(POINTS, "ascii"),
    "binary.ply": clouds.ply(POINTS, "binary_little_endian"),
    "plain.parquet": clouds.parquet(XYZI),
    "zstd.parquet": clouds.parquet(XYZI, compression="zstd"),
    "old.las": clouds.las(POINTS),
    "new.laz": clouds.las(POINTS, packed=True, version="1.4", point_format=7),
    "old.laz": clouds.las(POINTS, packed=True),
}
_WORLDS: dict[str, dict[str, int]] = {
    "waymo": {"waymo_segments": 1},
    "nuscenes": {"nuscenes_scenes": 1},
    "nyu_labelled": {"labelled_images": 2},
}


def write_tree(kind: str, root: Path) -> list[Path]:
    """Write a tiny data set of a kind; its files, whose bytes decide on the result."""
    if kind == "kitti_object":
        files.kitti_object(root, 1)
    elif kind in ("kitti_raw", "kitti_depth"):
        files.kitti_raw(root, {files.DRIVE: range(1)})
        drive = root / "kitti_raw/2011_09_26" / files.DRIVE
        for sensor in ("image_02", "velodyne_points"):
            files.write(drive / sensor / "timestamps.txt", "2011-09-26 13:02:25.9\n")
        if kind == "kitti_depth":
            files.kitti_truth(root / "kitti_depth/train", {files.DRIVE: range(1)})
    elif kind == "nyu":
        files.nyu(root / "nyu", {"kitchen": range(1)})
    elif kind == "logs":
        _write_logs(root)
    else:
        none = dict.fromkeys(("object_frames", "drives", "rooms", "waymo_segments", "nuscenes_scenes", "logs"), 0)
        sizes: dict[str, Any] = {"labelled_images": 0, "image_size": (32, 64), "lidar_points": 640}
        frames = {"waymo_frames": 1, "nuscenes_frames": 1}
        synthesize(World.model_validate(none | sizes | frames | _WORLDS[kind]), root, workers=0)
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "synthetic.json"]
    return [path for path in found if kind != "kitti_depth" or "kitti_depth" in path.parts or "calib" in path.name]


def _write_logs(root: Path) -> None:
    for name in ("plain.bin", "compressed.pcd", "zstd.parquet", "old.las"):
        data = SCANS[name]
        folder, suffix = root / "logs" / name.replace(".", "_"), name[name.rindex(".") :]
        scale = 65535 if ".la" in name else 1
        distortion = {"model": "plumb_bob", "coefficients": [0.1, 0, 0, 0]}
        files.write(
            folder / "calibration.yaml",
            calibration(time_unit="ms", lidars__top__reflectance_scale=scale, cameras__front__distortion=distortion),
        )
        files.write(folder / "images/front/1010.jpg", files.image(0, ".jpg"))
        files.write(folder / f"scans/top/1000{suffix}", data)


def list_in_this_process() -> None:
    """Have listing start no processes from now on: this one has bounds of its own."""
    waymo_segments.map_frames = _here  # type: ignore[assignment, attr-defined]
    nyu_labelled.apart = _apart_here  # type: ignore[assignment, attr-defined]


def _here(work: Callable[[Any], Any], items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
    yield from map(work, items)


def _apart_here(work: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    return work(*arguments)


def read_tree(kind: str, root: Path) -> int:
    """List, examine and pack.

    Returns:
        number of sound rows; others are named rejections.

    Raises:
        SimipuError: the data set cannot be listed.
    """
    sound = 0
    config = PairConfig(min_points=1)
    for frame in any_source(kind=kind, root=str(root)).list_frames(root):
        outcome = catalogue.examine(root, frame) if isinstance(frame, Frame) else frame
        if isinstance(outcome, Rejected):
            assert outcome.reason
            assert "\n" not in outcome.reason
            continue
        assert isinstance(frame, Frame)
        _assert_sound(outcome, frame)
        sound += 1
        row: CatalogueRow = {**outcome, "split": "train"}
        if frame.points:
            assert isinstance(pack_pair(root, config, row), Packed | Rejected)
        if frame.depth:
            assert isinstance(pack_depth(root, config, "official", row), Packed | Rejected)
    return sound


def _assert_sound(row: FrameRow, frame: Frame) -> None:
    assert pa.Table.from_pylist([{**row, "split": "train"}], schema=CATALOGUE).num_rows == 1
    assert row["height"] > 0
    assert row["width"] > 0
    assert np.isfinite(row["intrinsics"]).all()
    assert row["intrinsics"][0] > 0
    if frame.points:
        assert frame.lidar_to_camera is not None
        turn = np.reshape(frame.lidar_to_camera, (4, 4))[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=0.02)
        points = source_named(frame.source).read_scan(frame.points).points
        assert np.isfinite(points).all()
