"""Waymo segments as a reader of them sees the world they were made in."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from simipu_core.data.formats.range_images import to_points
from simipu_core.data.formats.waymo_segments import projection_offsets
from simipu_core.data.frames import Frame
from simipu_core.data.images import image_size
from simipu_core.data.sources import source_named
from simipu_core.data.sources.waymo import Waymo
from simipu_core.geometry.cameras import in_image, project
from simipu_core.synthetic.raycast import cast, full_windows
from simipu_core.synthetic.scene import Floats, Scene
from tests import worlds as world
from tests.sources import any_source
from tests.worlds import World, synthesize, waymo

CONFIG = World(
    object_frames=0, drives=0, waymo_segments=1, waymo_frames=3, image_size=(64, 96), lidar_points=12800, seed=5
)
LAST = 2
CENTIMETRE = 0.01


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("waymo") / "world"
    synthesize(CONFIG, out, workers=0)
    return out


@pytest.fixture(scope="module")
def frame(root: Path) -> Frame:
    frames = any_source(kind="waymo", root=str(root)).list_frames(root)
    assert len(frames) == 3
    last = frames[LAST]
    assert isinstance(last, Frame)
    return last


@pytest.fixture(scope="module")
def points(frame: Frame) -> Floats:
    assert frame.points is not None
    return source_named(frame.source).read_scan(frame.points).points


def scene() -> Scene:
    return world.segment_scene(CONFIG, 0)[0].at(LAST)[0]


def pose(delay: float = 0.0) -> Floats:
    """Vehicle to world, some seconds after the last frame's time."""
    return waymo.vehicle_pose(world.segment_scene(CONFIG, 0)[0], LAST * 0.1 + delay)


def miss(points: Floats) -> Floats:
    """Metres by which vehicle-frame points lie off the surface that a ray from over the vehicle's middle meets there.

    The eye is another than that of any sensor, so that a wrong extrinsic, inclination or pose moves points off their
    surface. Points that it cannot see have large values.
    """
    to_world, solids = pose(), scene().solids
    eye = to_world[:3, 3] + (0, 0, 2.5)
    target = points[:, :3].astype(float) @ to_world[:3, :3].T + to_world[:3, 3] - eye
    rays = np.ascontiguousarray(target.T[:, None, :]).astype(np.float32)
    share = cast(solids, eye, rays, full_windows(len(solids), 1, len(points))).distance[0]
    return np.asarray(np.abs(share - 1) * np.linalg.norm(target, axis=1))


def test_points_lie_on_the_world_to_the_centimetre(points: Floats) -> None:
    assert len(points) > 5000
    near = points[np.linalg.norm(points[:, :3], axis=1) < 40]
    off = miss(near)
    assert np.median(off) < 0.001
    assert (off < CENTIMETRE).mean() > 0.9  # the rest is hidden from this eye


def test_the_road_is_at_height_zero(points: Floats) -> None:
    under = points[(np.abs(points[:, 0] - 6) < 6) & (np.abs(points[:, 1]) < 1)]
    world_z = under[:, :3] @ pose()[2, :3] + pose()[2, 3]
    assert len(under) > 50
    assert (np.abs(world_z) < CENTIMETRE).mean() > 0.95


def test_projected_depths_are_those_of_the_rendered_image(frame: Frame, points: Floats) -> None:
    assert frame.lidar_to_camera is not None
    height, width = image_size(Waymo.read_file(frame.image))
    assert (height, width) == CONFIG.image_size
    uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
    inside = in_image(uv, depth, height, width, (1.0, 60.0))
    assert inside.sum() > 300
    camera, seen_from, solids = waymo.front_camera(CONFIG.image_size), pose(0.052), scene().solids
    rays = camera.rays(uv[inside, 0][None], uv[inside, 1][None], seen_from)
    seen = cast(solids, camera.position(seen_from), rays, full_windows(len(solids), 1, int(inside.sum()))).distance[0]
    off = np.abs(seen - depth[inside])
    assert np.median(off) < 0.001
    assert (off < CENTIMETRE).mean() > 0.95  # the rest is hidden from the camera


def test_the_data_sets_own_projection_agrees_to_the_pixel(frame: Frame) -> None:
    offsets = projection_offsets(frame)
    assert offsets is not None
    assert len(offsets) > 300
    assert np.quantile(offsets, 0.99) < 0.75  # whole pixels: half a diagonal and rounding


def test_without_the_pose_per_pixel_points_are_off(root: Path) -> None:
    """The two tests above can fail: the vehicle moves by more than a metre during the turn."""
    table = pq.read_table(root / "waymo/training/lidar" / f"{waymo.segment_name(0)}.parquet")
    row = table.to_pylist()[2 * LAST]
    assert row["key.laser_name"] == waymo.TOP
    column = "[LiDARComponent].range_image_return1"
    image = np.reshape(row[f"{column}.values"], row[f"{column}.shape"])
    top = waymo.lidars(CONFIG.lidar_points)[0]
    still = to_points(image, top.elevations[::-1], top.extrinsic)
    near = still[np.linalg.norm(still[:, :3], axis=1) < 40]
    assert (miss(near) < CENTIMETRE).mean() < 0.6
    assert np.linalg.norm(pose(0.1)[:3, 3] - pose()[:3, 3]) > 0.8


def test_both_lidars_and_returns_are_read(root: Path, points: Floats) -> None:
    rows = pq.read_table(root / "waymo/training/lidar" / f"{waymo.segment_name(0)}.parquet").to_pylist()[2 * LAST :]
    counts = [
        int((np.reshape(row[f"{column}.values"], row[f"{column}.shape"])[..., 0] > 0).sum())
        for row in rows
        for column in (f"[LiDARComponent].range_image_return{number}" for number in (1, 2))
    ]
    assert len(counts) == 4
    assert min(counts[:3]) > 100
    assert len(points) == sum(counts)
    assert 0 <= points[:, 3].min() < points[:, 3].max() < 1


def test_columns_are_those_of_the_published_definitions(root: Path) -> None:
    for name, schema in waymo.SCHEMAS.items():
        (file,) = (root / "waymo/training" / name).iterdir()
        assert pq.read_schema(file).names == schema.names
    matrix = "[VehiclePoseComponent].world_from_vehicle.transform"
    assert waymo.SCHEMAS["vehicle_pose"].names == [
        "key.segment_context_name",
        "key.frame_timestamp_micros",
        matrix,
    ]


@pytest.mark.real_data
def test_key_columns_equal_those_of_the_real_components(real_data: Path) -> None:
    def schema(component: str) -> Any:
        (file,) = (real_data / "waymo/v2_parquet" / component).iterdir()
        return pq.read_schema(file)

    ours, real = waymo.SCHEMAS["vehicle_pose"], schema("vehicle_pose")
    assert ours.names == real.names
    assert ours.types[:2] == real.types[:2]
    assert real.types[2].list_size == ours.types[2].list_size == 16
    camera = schema("camera_hkp")
    for field in waymo.SCHEMAS["camera_image"]:
        assert not field.name.startswith("key.") or field.name in camera.names
