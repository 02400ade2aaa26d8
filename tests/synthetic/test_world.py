"""The files that the world is written to."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.config import SyntheticConfig
from simipu_core.errors import SimipuError
from simipu_core.synthetic import synthesize, world, writers
from simipu_core.synthetic.calibration import object_calibration, object_camera, parse, projections, raw_camera
from simipu_core.synthetic.render import render_depth
from simipu_core.synthetic.scene import Floats

CONFIG = SyntheticConfig(
    object_frames=2, drives=2, frames_per_drive=2, rooms=0, image_size=(48, 160), lidar_points=3200, seed=3
)
DATE = "2000_01_01"
DRIVE = f"{DATE}_drive_0001_sync"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "world"
    synthesize(CONFIG, out, workers=1)
    return out


def read_image(path: Path) -> NDArray[Any]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_workers_write_the_same_bytes_as_one(written: Path, tmp_path: Path) -> None:
    synthesize(CONFIG, tmp_path / "world", workers=2)
    assert content(tmp_path / "world") == content(written)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_another_seed_is_another_world(written: Path, tmp_path: Path) -> None:
    one = CONFIG.model_copy(update={"object_frames": 1, "drives": 0, "seed": 4})
    synthesize(one, tmp_path / "world", workers=1)
    name = "kitti_object/training/image_2/000000.png"
    assert (tmp_path / "world" / name).read_bytes() != (written / name).read_bytes()
    assert (written / name).read_bytes() != (written / name.replace("000000", "000001")).read_bytes()


def test_layout(written: Path) -> None:
    frames = [f"{frame:010d}" for frame in range(2)]
    raw, truth = f"kitti_raw/{DATE}", "kitti_depth/train"
    drives = [f"{DATE}_drive_{drive:04d}_sync" for drive in range(2)]
    expected = {"synthetic.json"}
    for folder, ending in (("image_2", "png"), ("velodyne", "bin"), ("calib", "txt")):
        expected |= {f"kitti_object/training/{folder}/{index:06d}.{ending}" for index in range(2)}
    expected |= {f"{raw}/calib_{name}.txt" for name in ("cam_to_cam", "velo_to_cam", "imu_to_velo")}
    for drive in drives:
        expected |= {f"{raw}/{drive}/{sensor}/timestamps.txt" for sensor in ("image_02", "velodyne_points")}
        expected |= {f"{raw}/{drive}/image_02/data/{frame}.png" for frame in frames}
        expected |= {f"{raw}/{drive}/velodyne_points/data/{frame}.bin" for frame in frames}
        expected |= {f"{truth}/{drive}/proj_depth/groundtruth/image_02/{frame}.png" for frame in frames}
    assert set(content(written)) == expected


def test_description_names_config_and_licence(written: Path) -> None:
    about = json.loads((written / "synthetic.json").read_text())
    assert about["generator"] == "simipu synthetic world"
    assert SyntheticConfig.model_validate(about["config"]) == CONFIG
    assert about["licence"] == "generated data, no restrictions"


def test_timestamps_are_kitti_text(written: Path) -> None:
    drive = written / "kitti_raw" / DATE / DRIVE
    seconds = []
    for sensor in ("image_02", "velodyne_points"):
        lines = (drive / sensor / "timestamps.txt").read_text().splitlines()
        assert len(lines) == 2
        assert all(re.fullmatch(r"2000-01-01 \d\d:\d\d:\d\d\.\d{9}", line) for line in lines)
        seconds.append([float(line.rsplit(":", 1)[1]) for line in lines])
    assert np.diff(seconds, axis=1) == pytest.approx(0.1, abs=0.005)
    assert np.abs(np.array(seconds[0]) - seconds[1]).max() < 0.02


def project(points: Floats, matrix: Floats) -> tuple[Floats, Floats, Floats]:
    x, y, depth = matrix @ np.column_stack((points[:, :3], np.ones(len(points)))).T
    return x / depth, y / depth, depth


def four(matrix: Floats) -> Floats:
    padded = np.eye(4)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


def test_object_points_land_on_the_dense_depth(written: Path) -> None:
    """P2 · R0_rect · Tr_velo_to_cam as written puts the written scan onto what the camera saw."""
    folder = written / "kitti_object" / "training"
    lines = parse((folder / "calib" / "000001.txt").read_text())
    assert list(lines) == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]
    rectify, extrinsics = lines["R0_rect"].reshape(3, 3), lines["Tr_velo_to_cam"].reshape(3, 4)
    matrix = lines["P2"].reshape(3, 4) @ four(rectify) @ four(extrinsics)
    points = np.fromfile(folder / "velodyne" / "000001.bin", "<f4").reshape(-1, 4)
    u, v, depth = project(points, matrix)
    height, width = CONFIG.image_size
    inside = (depth > 1) & (u >= 0) & (v >= 0) & (u < width - 1) & (v < height - 1)
    assert 0.08 < inside.mean() < 0.3
    street, _ = world.object_scene(CONFIG, 1)
    dense = render_depth(street.at(0)[0], object_camera(CONFIG.image_size), street.at(0)[1])
    found = dense[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)]
    ratio = found / depth[inside]
    assert np.median(np.abs(ratio - 1)) < 0.02
    assert (np.abs(ratio - 1) < 0.1).mean() > 0.75


def test_drive_truth_is_the_exact_depth_thinned(written: Path) -> None:
    street, _ = world.drive_scene(CONFIG, 1)
    scene, pose = street.at(1)
    exact = render_depth(scene, raw_camera(CONFIG.image_size), pose)
    name = written / "kitti_depth" / "train" / DRIVE / "proj_depth/groundtruth/image_02/0000000001.png"
    stored = read_image(name)
    assert stored.dtype == np.uint16
    depth = stored / 256
    kept = depth > 0
    assert np.abs(depth[kept] - exact[kept]).max() <= 0.5 / 256 + 1e-6
    assert 0.12 < kept.mean() < 0.35
    assert depth.max() < 85
    assert not kept[: CONFIG.image_size[0] // 4].any()


def test_raw_calibration_reads_back_as_the_camera_rendered_with(written: Path) -> None:
    date = written / "kitti_raw" / DATE
    cameras = parse((date / "calib_cam_to_cam.txt").read_text())
    velo = parse((date / "calib_velo_to_cam.txt").read_text())
    extrinsics = np.column_stack((velo["R"].reshape(3, 3), velo["T"]))
    matrix = cameras["P_rect_02"].reshape(3, 4) @ four(cameras["R_rect_00"].reshape(3, 3)) @ four(extrinsics)
    camera = raw_camera(CONFIG.image_size)
    assert camera.intrinsics @ camera.lidar_to_camera[:3] == pytest.approx(matrix, abs=1e-9)
    assert cameras["S_rect_02"].tolist() == [160, 48]
    rotation = camera.lidar_to_camera[:3, :3]
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-5)


def test_full_size_intrinsics_are_kittis_own() -> None:
    assert projections((375, 1242))[2][:, :3] == pytest.approx(
        np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]])
    )
    assert (
        object_calibration((375, 1242)).splitlines()[2].startswith("P2: 7.215377000000e+02 0.000000000000e+00 6.0955")
    )


def test_rooms_are_written_as_nyu_pairs(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"object_frames": 0, "drives": 0, "rooms": 3})
    root = tmp_path
    jobs = world._lay_out(config, root)
    world._render(config, root, jobs[-1])
    test_scene = root / "nyu" / "official_splits" / "test" / "room_0002"
    assert sorted(path.name for path in (root / "nyu").iterdir()) == ["official_splits", "room_0000", "room_0001"]
    assert len(list(test_scene.iterdir())) == 8
    image = read_image(test_scene / "rgb_00003.jpg")
    depth = read_image(test_scene / "sync_depth_00003.png")
    assert image.shape == (480, 640, 3)
    assert depth.dtype == np.uint16
    assert depth.shape == (480, 640)
    assert 400 < depth.min() < depth.max() < 10_000


def test_depth_that_does_not_fit_is_no_measurement(tmp_path: Path) -> None:
    writers.write_depth(tmp_path / "depth.png", np.array([[1.5, np.inf, 300.0, 0.0]]), 256)
    assert read_image(tmp_path / "depth.png").tolist() == [[384, 0, 0, 0]]


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(SimipuError, match="already exists; remove it"):
        synthesize(CONFIG, tmp_path, workers=1)
    assert (tmp_path / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Permission denied")]
)
def test_an_unwritable_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def fail(path: Path, points: Floats) -> None:
        raise OSError(number, "Permission denied" if number == errno.EACCES else "No space left on device")

    monkeypatch.setattr(writers, "write_scan", fail)
    with pytest.raises(SimipuError, match=re.escape(f"cannot be written ({reason}); free space or choose")):
        synthesize(CONFIG, tmp_path / "world", workers=0)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_world_is_still_described(tmp_path: Path) -> None:
    synthesize(SyntheticConfig(object_frames=0, drives=0), tmp_path / "world")
    assert [path.name for path in (tmp_path / "world").iterdir()] == ["synthetic.json"]
