"""Own logs as a reader of them sees the world they were made in."""

from pathlib import Path

import numpy as np
import pytest

from simipu_core.artifacts import read_manifest
from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.data.frames import Frame
from simipu_core.data.images import decode_depth
from simipu_core.data.shards import Shards
from simipu_core.data.sources import source_named
from simipu_core.geometry.cameras import in_image, project
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.synthetic import logs, synthesize, world
from simipu_core.synthetic.calibration import object_camera
from simipu_core.synthetic.lidar import RANGE_NOISE, scan
from simipu_core.synthetic.raycast import cast, full_windows
from simipu_core.synthetic.scene import Floats
from tests.sources import any_source

CONFIG = SyntheticConfig(
    object_frames=0, drives=0, logs=5, frames_per_drive=2, image_size=(64, 96), lidar_points=12800, seed=5
)
TWO_CENTIMETRES = 0.02
SUFFIXES = [".bin", ".npy", ".pcd", ".parquet", ".las"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("logs") / "world"
    synthesize(CONFIG, out, workers=0)
    return out


@pytest.fixture(scope="module")
def frames(root: Path) -> list[Frame]:
    found = any_source(kind="logs", root=str(root)).list_frames(root)
    assert all(isinstance(frame, Frame) for frame in found)
    return [frame for frame in found if isinstance(frame, Frame)]


def true_depths(index: int, frame: int, uv: Floats) -> Floats:
    """Depth along the optical axis of what the camera sees at pixel positions (N, 2), metres."""
    scene, pose = world.log_scene(CONFIG, index)[0].at(frame)
    camera = object_camera(CONFIG.image_size)
    rays = camera.rays(uv[:, 0][None], uv[:, 1][None], pose)
    windows = full_windows(len(scene.solids), 1, len(uv))
    return np.asarray(cast(scene.solids, camera.position(pose), rays, windows).distance[0])


def test_every_format_is_written_and_read(frames: list[Frame]) -> None:
    assert [frame.points.suffix for frame in frames[::2] if frame.points] == SUFFIXES
    assert [frame.sequence for frame in frames[::2]] == [logs.sequence_name(index) for index in range(5)]


def test_points_are_those_that_were_measured(frames: list[Frame]) -> None:
    for index in range(5):
        frame = frames[2 * index]
        assert frame.points is not None
        scene, pose = world.log_scene(CONFIG, index)[0].at(0)
        exact = scan(scene, pose, CONFIG.lidar_points, np.random.default_rng(0), noisy=False).points
        points = source_named(frame.source).read_scan(frame.points).points
        assert 0.5 * len(exact) < len(points) < len(exact)
        assert 0.05 < points[:, 3].mean() < 0.95
        assert abs(points[:, 3].mean() - exact[:, 3].mean()) < 0.1


def test_projected_depths_are_those_of_the_world(frames: list[Frame]) -> None:
    for number, frame in enumerate(frames):
        assert frame.points is not None
        assert frame.lidar_to_camera is not None
        points = source_named(frame.source).read_scan(frame.points).points
        uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
        inside = in_image(uv, depth, *CONFIG.image_size, (1.0, 40.0))
        assert inside.sum() > 200
        off = depth[inside] - true_depths(number // 2, number % 2, uv[inside])
        assert abs(np.median(off)) < TWO_CENTIMETRES / 4  # no bias
        assert np.median(np.abs(off)) < TWO_CENTIMETRES  # of which the sensor's own noise is two thirds
        assert RANGE_NOISE == TWO_CENTIMETRES


def test_ingest_and_pair_run_end_to_end(root: Path, tmp_path: Path) -> None:
    source = any_source(kind="logs", root=str(root), split="by_sequence")
    counts = ingest(source, tmp_path / "frames").counts
    assert (counts["frames"], counts["broken"], counts["sequences"]) == (10, 0, 5)
    assert read_manifest(tmp_path / "frames").licence == world.LICENCE
    packing = PairConfig(depth_from="projected_lidar", min_points=100)
    assert pair(tmp_path / "frames", packing, "pairs", tmp_path / "pairs").counts["frames"] == counts["train"]
    assert pair(tmp_path / "frames", packing, "depth", tmp_path / "depth").counts["eval"] == counts["eval"]
    shards = Shards(tmp_path / "depth", "depth", "eval")
    row = shards.row(0)
    depth = decode_depth(row["depth"], row["depth_scale"])
    v, u = np.nonzero(depth)
    index, frame = int(row["sequence"][-4:]), 0
    off = np.abs(depth[v, u] - true_depths(index, frame, np.stack([u, v], axis=1).astype(float)))
    # drawn on the nearest pixel: half a pixel of a slanted road is more than the noise
    assert np.median(off / depth[v, u]) < 0.02
