"""nuScenes keyframes as a reader of them sees the world they were made in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simipu_core.data.frames import Frame
from simipu_core.data.images import image_size
from simipu_core.data.sources import source_named
from simipu_core.data.sources.nuscenes import CAMERAS, NuScenes
from simipu_core.geometry.cameras import in_image, project
from simipu_core.synthetic.raycast import cast, full_windows
from simipu_core.synthetic.scene import Floats
from tests import worlds as world
from tests.sources import any_source
from tests.worlds import World, nuscenes, synthesize

CONFIG = World(
    object_frames=0, drives=0, nuscenes_scenes=1, nuscenes_frames=2, image_size=(64, 112), lidar_points=25600, seed=6
)
LAST = 1
CENTIMETRE = 0.01


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nuscenes") / "world"
    synthesize(CONFIG, out, workers=0)
    return out


def frame_of(root: Path, camera: str) -> Frame:
    frames = any_source(kind="nuscenes", camera=camera).list_frames(root)
    assert len(frames) == 2
    last = frames[LAST]
    assert isinstance(last, Frame)
    return last


def off(frame: Frame, mount: nuscenes.Mount, delay: float) -> Floats:
    """Metres by which what the camera sees, so many seconds after the scan, lies behind the depths projected there."""
    assert frame.points is not None
    assert frame.lidar_to_camera is not None
    points = source_named(frame.source).read_scan(frame.points).points
    height, width = image_size(NuScenes.read_file(frame.image))
    assert (height, width) == CONFIG.image_size
    uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
    inside = in_image(uv, depth, height, width, (1.0, 60.0))
    assert inside.sum() > 300
    street, _ = world.nuscenes_scene(CONFIG, 0)
    scene, _ = street.at(LAST * nuscenes.STEPS)
    seen_from, camera = nuscenes.pose(street, LAST, delay), nuscenes.camera(mount, CONFIG.image_size)
    rays = camera.rays(uv[inside, 0][None], uv[inside, 1][None], seen_from)
    windows = full_windows(len(scene.solids), 1, int(inside.sum()))
    seen = cast(scene.solids, camera.position(seen_from), rays, windows).distance[0]
    return np.asarray(seen - depth[inside])


@pytest.mark.parametrize("camera", CAMERAS)
def test_projected_depths_are_those_of_the_rendered_image(root: Path, camera: str) -> None:
    mount = next(mount for mount in nuscenes.MOUNTS if mount.channel == f"CAM_{camera.upper()}")
    miss = off(frame_of(root, camera), mount, mount.delay)
    assert np.median(np.abs(miss)) < 0.001
    assert (np.abs(miss) < CENTIMETRE).mean() > 0.85
    assert (miss < CENTIMETRE).mean() > 0.97  # nearly all of the rest is hidden from the camera


def test_without_the_motion_to_the_image_depths_are_off(root: Path) -> None:
    """The test above can fail: the vehicle moves by some 40 cm in those 36 ms."""
    miss = off(frame_of(root, "front"), nuscenes.MOUNTS[0], 0.0)
    assert np.median(np.abs(miss)) > 2 * CENTIMETRE


def test_scans_are_five_floats_with_rings_from_the_lowest(root: Path) -> None:
    (first, _) = sorted((root / "nuscenes/samples/LIDAR_TOP").iterdir())
    points = np.fromfile(first, "<f4").reshape(-1, 5)
    assert set(points[:, 4].tolist()) <= set(range(32))
    assert 0 <= points[:, 3].min() < 20 < points[:, 3].max() <= 255
    np.testing.assert_array_equal(points[:, 3], np.rint(points[:, 3]))
    up = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    rings = [np.median(up[points[:, 4] == ring]) for ring in sorted(set(points[:, 4].tolist()))]
    assert (np.diff(rings) > 0).all()


def rows(root: Path, name: str) -> dict[str, dict[str, Any]]:
    records = json.loads((root / "nuscenes" / nuscenes.VERSION / f"{name}.json").read_text())
    found = {record["token"]: record for record in records}
    assert len(found) == len(records)
    return found


def test_all_thirteen_tables_are_there_and_their_tokens_lead_somewhere(root: Path) -> None:
    names = {path.stem for path in (root / "nuscenes" / nuscenes.VERSION).iterdir()}
    assert names == {
        *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
        *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
    }
    for name in names:
        for record in rows(root, name).values():
            for field, token in record.items():
                if field.endswith("_token"):
                    table = field.removesuffix("_token").removeprefix("first_").removeprefix("last_")
                    assert token in rows(root, table)
    data, samples = rows(root, "sample_data"), rows(root, "sample")
    assert len(data) == 2 * 7
    for record in data.values():
        assert (root / "nuscenes" / record["filename"]).is_file()
        assert abs(record["timestamp"] - samples[record["sample_token"]]["timestamp"]) < 50_000
        if record["prev"]:
            assert data[record["prev"]]["next"] == record["token"]


def test_files_do_not_depend_on_the_number_of_workers(root: Path, tmp_path: Path) -> None:
    synthesize(CONFIG, tmp_path / "again", workers=2)
    ours, theirs = (
        {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} for at in (root, tmp_path / "again")
    )
    assert ours == theirs
