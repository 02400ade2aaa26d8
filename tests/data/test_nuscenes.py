import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from simipu_core.config import PairConfig
from simipu_core.data.catalogue import examine, read_frames
from simipu_core.data.formats import json_tables
from simipu_core.data.formats.json_tables import records
from simipu_core.data.frames import BrokenFrameError, Frame, Rejected
from simipu_core.data.shards import Shards
from simipu_core.data.sources import nuscenes
from simipu_core.data.sources.nuscenes import NuScenes
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import in_image, project
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.sources import any_source
from tests.worlds import World
from tests.worlds.nuscenes import VERSION, scene_name, time_us

CONFIG = World(
    object_frames=0, drives=0, nuscenes_scenes=2, nuscenes_frames=2, image_size=(36, 64), lidar_points=6400, seed=3
)
FIRST = f"nuscenes/{scene_name(0)}/{time_us(0, 0)}"


def scan_file(reference: Path) -> Path:
    return reference.with_name(reference.name.rpartition("#")[0])


def listing(root: Path, **changes: Any) -> list[Frame | Rejected]:
    return any_source(kind="nuscenes", **changes).list_frames(root)


def sound(root: Path, **changes: Any) -> list[Frame]:
    found = listing(root, **changes)
    assert not [each for each in found if isinstance(each, Rejected)]
    return [each for each in found if isinstance(each, Frame)]


def table(root: Path, name: str) -> Path:
    return root / "nuscenes" / VERSION / f"{name}.json"


def rewrite(file: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = json.loads(file.read_text())
    change(rows)
    file.write_text(json.dumps(rows))


# -- listing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["", "nuscenes"])
def test_keyframes_are_listed_by_scene_and_time(made: Path, at: str) -> None:
    frames = sound(made / at)
    expected = [f"nuscenes/{scene_name(i)}/{time_us(i, frame)}" for i in range(2) for frame in range(2)]
    assert [frame.sample_id for frame in frames] == expected
    first = frames[0]
    assert first.sequence == "scene-0001"
    assert first.points_timestamp_us == time_us(0, 0)
    assert first.timestamp_us == time_us(0, 0) - 35_500
    assert first.image.parent == made / "nuscenes/samples/CAM_FRONT"
    assert first.points is not None
    assert first.points.parent == made / "nuscenes/samples/LIDAR_TOP"
    assert first.points.name.endswith(f"{time_us(0, 0)}.pcd.bin#front")


def test_the_first_version_that_is_there_is_read(world: Path) -> None:
    shutil.copytree(world / "nuscenes" / VERSION, world / "nuscenes/v1.0-trainval")
    rewrite(world / "nuscenes/v1.0-trainval/sample.json", lambda rows: rows.pop())
    assert len(sound(world)) == 3


def test_sweeps_between_keyframes_are_left_out(world: Path) -> None:
    def add_sweep(rows: list[dict[str, Any]]) -> None:
        rows.extend(
            [row | {"token": f"s{i}", "filename": "sweeps/x", "is_key_frame": False} for i, row in enumerate(rows)]
        )

    before = sound(world)
    rewrite(table(world, "sample_data"), add_sweep)
    assert sound(world) == before


def test_the_scan_is_turned_to_the_camera_and_lidar_to_camera_with_it(made: Path) -> None:
    for camera, degrees in nuscenes.CAMERAS.items():
        frame = sound(made, camera=camera)[0]
        assert frame.points is not None
        assert frame.lidar_to_camera is not None
        stored = np.fromfile(scan_file(frame.points), "<f4").reshape(-1, 5)
        points = NuScenes.read_scan(frame.points).points
        heading = np.arctan2(points[:, 1], points[:, 0]) - np.arctan2(-stored[:, 0], stored[:, 1])
        np.testing.assert_allclose(np.exp(1j * heading), np.exp(-1j * np.deg2rad(degrees)), atol=1e-4)
        np.testing.assert_array_equal(points[:, 2], stored[:, 2])
        np.testing.assert_allclose(points[:, 3], stored[:, 3] / 255, rtol=1e-6)
        optical_axis = np.reshape(frame.lidar_to_camera, (4, 4))[2, :3]
        assert optical_axis[0] > 0.99


def test_motion_between_scan_and_image_is_in_lidar_to_camera(made: Path) -> None:
    """Against the chain of the tables' transforms, written out with another library's rotations."""
    rows = {
        name: json.loads(table(made, name).read_text()) for name in ("sample_data", "ego_pose", "calibrated_sensor")
    }
    by_token = {row["token"]: row for name in ("ego_pose", "calibrated_sensor") for row in rows[name]}

    def to_world(time: int) -> NDArray[np.float64]:
        (row,) = (row for row in rows["sample_data"] if row["timestamp"] == time)
        world, sensor = by_token[row["ego_pose_token"]], by_token[row["calibrated_sensor_token"]]
        product = np.eye(4)
        for placed in (world, sensor):
            w, x, y, z = placed["rotation"]
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
            matrix[:3, 3] = placed["translation"]
            product = product @ matrix
        return product

    scan, camera = to_world(time_us(1, 1)), to_world(time_us(1, 1, -0.0355))
    frame = sound(made)[3]
    assert frame.points is not None
    assert frame.lidar_to_camera is not None
    stored = np.fromfile(scan_file(frame.points), "<f4").reshape(-1, 5)[:, :3].astype(float)
    expected = (stored @ scan[:3, :3].T + scan[:3, 3] - camera[:3, 3]) @ camera[:3, :3]
    transform = np.reshape(frame.lidar_to_camera, (4, 4))
    points = NuScenes.read_scan(frame.points).points[:, :3].astype(float)
    np.testing.assert_allclose(points @ transform[:3, :3].T + transform[:3, 3], expected, atol=1e-4)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sensor", "calibrated_sensor", "sample", "sample_data", "ego_pose", "scene"])
def test_a_missing_or_damaged_table_is_named(world: Path, name: str) -> None:
    file = table(world, name)
    file.write_text(file.read_text()[:-40])
    with pytest.raises(SimipuError, match=rf"{name}.json: cannot be read as a JSON array of records; unpack"):
        listing(world)
    rows = [{"token": 3}]
    file.write_text(json.dumps(rows))
    with pytest.raises(SimipuError, match=rf"{name}.json: the record 3 has no sound token"):
        listing(world)
    file.unlink()
    with pytest.raises(SimipuError, match=rf"{name}.json: this table is missing; download"):
        listing(world)


def lose_pose(rows: list[dict[str, Any]]) -> None:
    rows[:] = [row for row in rows if row["timestamp"] != time_us(0, 0)]


def lose_image(rows: list[dict[str, Any]]) -> None:
    rows[:] = [row for row in rows if "CAM_FRONT/" not in row["filename"] or row["timestamp"] > time_us(0, 0)]


def put(field: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0][field] = value

    return change


DAMAGE: dict[str, tuple[str, Callable[[list[dict[str, Any]]], object], str]] = {
    "pose gone": ("ego_pose", lose_pose, "has no record "),
    "image gone": ("sample_data", lose_image, "has no record "),
    "stretched pose": ("ego_pose", put("rotation", [2, 0, 0, 0]), "is no unit quaternion"),
    "endless pose": ("ego_pose", put("translation", [1e999, 0, 0]), "holds no rotation and translation"),
    "pose of words": ("ego_pose", put("rotation", "north"), "holds no rotation and translation"),
    "outside": ("sample_data", put("filename", "../../etc/passwd"), "lies outside the data set"),
    "absolute": ("sample_data", put("filename", "/etc/passwd"), "lies outside the data set"),
    "no name": ("sample_data", put("filename", None), "names no file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_record_breaks_its_frame_only(world: Path, damage: str) -> None:
    name, change, reason = DAMAGE[damage]
    rewrite(table(world, name), change)
    broken, *others = listing(world)
    assert isinstance(broken, Rejected)
    assert (broken.sample_id, broken.file) == (FIRST, table(world, name))
    assert reason in broken.reason
    assert all(isinstance(each, Frame) for each in others)


@pytest.mark.parametrize(
    "values", [[[0, 0, 1], [0, 1, 1], [0, 0, 1]], [[1, 0], [0, 1]], None, [[float("nan")] * 3] * 3]
)
def test_intrinsics_that_are_none_are_named(world: Path, values: object) -> None:
    rewrite(table(world, "calibrated_sensor"), put("camera_intrinsic", values))
    reasons = [each.reason for each in listing(world) if isinstance(each, Rejected)]
    assert reasons == ["holds intrinsics that are no camera matrix"] * 2


def test_a_cut_scan_and_strange_intensities_are_named(world: Path) -> None:
    frame = sound(world)[0]
    assert frame.points is not None
    file = scan_file(frame.points)
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    with pytest.raises(BrokenFrameError, match="are no whole number of 20-byte points"):
        NuScenes.read_scan(frame.points)
    points = np.frombuffer(data, "<f4").reshape(-1, 5).copy()
    points[7, 3] = 256
    file.write_bytes(points.tobytes())
    with pytest.raises(BrokenFrameError, match="has intensities outside 0–255"):
        NuScenes.read_scan(frame.points)
    file.unlink()
    rejected = examine(world, frame)
    assert isinstance(rejected, Rejected)
    assert rejected.file == file


# -- tables ----------------------------------------------------------------------------------------------------------

TABLES = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=30) | st.none(), max_size=4))


@settings(max_examples=60, deadline=None)
@given(rows=TABLES, indent=st.sampled_from([None, 0, 3]), piece=st.integers(400, 900))
def test_records_are_those_of_the_whole_array(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], indent: int | None, piece: int
) -> None:
    file = tmp_path_factory.mktemp("table") / "t.json"
    file.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_tables, "_PIECE", piece)
        assert list(records(file)) == rows


@pytest.mark.parametrize(
    "text", ["", "{}", "[{}", "[{} {}]", "[{},]", "[1]", "[" * 100_000, '[{"a": ' + "9" * 5000 + "}]", "\xff"]
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SimipuError, match="cannot be read as a JSON array of records"):
        list(records(tmp_path / "t.json"))


# -- through the stages, and the real keyframe -----------------------------------------------------------------------


def test_keyframes_become_pairs_and_depth(made: Path, tmp_path: Path) -> None:
    ingest(any_source(kind="nuscenes", root=str(made), split="by_sequence"), tmp_path / "catalogue")
    rows = read_frames(tmp_path / "catalogue")
    assert [row["split"] for row in rows] == ["train"] * 2 + ["eval"] * 2
    config = PairConfig(min_points=20, depth_from="projected_lidar")
    assert pair(tmp_path / "catalogue", config, "pairs", tmp_path / "pairs").counts["frames"] == 2
    assert pair(tmp_path / "catalogue", config, "depth", tmp_path / "depth").counts["eval"] == 2
    row = Shards(tmp_path / "pairs", "pairs").row(0)
    assert np.frombuffer(row["points"], "<f4").reshape(-1, 4)[:, 0].min() > 0


def real_counts(real_data: Path) -> dict[str, int]:
    """Points of the real scan in each image by the toolbox's own matrices, one product and no reader of ours."""
    folder = real_data / "nuscenes"
    content = json.loads((folder / "calibration.json").read_text())
    stored = np.fromfile(folder / content["lidar_points"]["lidar_path"], "<f4").reshape(-1, 5)
    xyz = np.unique(stored[:, :4], axis=0)[:, :3]  # some points are there twice
    counts = {}
    for channel, image in content["images"].items():
        seen = np.column_stack((xyz, np.ones(len(xyz)))) @ np.array(image["lidar2cam"])[:3].T
        u, v, depth = np.array(image["cam2img"]) @ seen[seen[:, 2] > 0].T
        counts[channel] = int(((u >= 0) & (v >= 0) & (u < 1600 * depth) & (v < 900 * depth)).sum())
    return counts


@pytest.mark.real_data
@pytest.mark.parametrize("camera", nuscenes.CAMERAS)
def test_the_real_keyframe_has_the_known_counts(real_data: Path, tmp_path: Path, camera: str) -> None:
    source = any_source(kind="nuscenes", root=str(real_data), camera=camera)
    ingest(source, tmp_path / "catalogue")
    (row,) = read_frames(tmp_path / "catalogue")
    assert (row["height"], row["width"], row["num_points"]) == (900, 1600, 33_533)
    assert row["num_dropped"] == 34_688 - 33_533
    assert row["points_timestamp_us"] == 1532402927647951
    assert row["timestamp_us"] is not None
    assert 0 <= row["points_timestamp_us"] - row["timestamp_us"] < 50_000
    pair(tmp_path / "catalogue", PairConfig(depth_range=(0.0, 1000.0)), "pairs", tmp_path / "pairs")
    points = np.frombuffer(Shards(tmp_path / "pairs", "pairs").row(0)["points"], "<f4").reshape(-1, 4)
    assert len(points) == real_counts(real_data)[f"CAM_{camera.upper()}"]
    if camera == "front":
        assert len(points) == 3067
    assert points[:, 0].min() > 1


@pytest.mark.real_data
def test_the_real_keyframe_as_tables_is_the_same(real_data: Path, tmp_path: Path) -> None:
    """Real calibration, scan and times in the form of the tables give the flat sample's own lidar2cam."""
    folder = real_data / "nuscenes"
    content = json.loads((folder / "calibration.json").read_text())

    def placed(matrix: Any) -> dict[str, list[float]]:
        x, y, z, w = Rotation.from_matrix(np.array(matrix)[:3, :3]).as_quat().tolist()
        return {"translation": np.array(matrix)[:3, 3].tolist(), "rotation": [w, x, y, z]}

    image, lidar = content["images"]["CAM_BACK"], content["lidar_points"]
    # where the vehicle was when the image was taken, seen from where it was at the scan
    moved = np.array(lidar["lidar2ego"]) @ np.linalg.inv(image["lidar2cam"]) @ np.linalg.inv(image["cam2ego"])
    assert 0.01 < np.linalg.norm(moved[:3, 3]) < 0.5
    tables: dict[str, list[dict[str, Any]]] = {
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}, {"token": "c", "channel": "CAM_BACK"}],
        "calibrated_sensor": [
            {"token": "cl", "sensor_token": "l", **placed(lidar["lidar2ego"]), "camera_intrinsic": []},
            {"token": "cc", "sensor_token": "c", **placed(image["cam2ego"]), "camera_intrinsic": image["cam2img"]},
        ],
        "ego_pose": [{"token": "pl", **placed(np.eye(4))}, {"token": "pc", **placed(moved)}],
        "sample_data": [
            {
                "token": f"d{kind}",
                "sample_token": "s",
                "ego_pose_token": f"p{kind}",
                "calibrated_sensor_token": f"c{kind}",
                "is_key_frame": True,
                "filename": f"samples/{name}",
                "timestamp": int(name.split("__")[2].split(".")[0]),
            }
            for kind, name in (("l", lidar["lidar_path"]), ("c", image["img_path"]))
        ],
        "sample": [{"token": "s", "scene_token": "x", "timestamp": 1532402927647951}],
        "scene": [{"token": "x", "name": "scene-0061"}],
    }
    (tmp_path / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (tmp_path / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "samples").symlink_to(folder)
    (ours,), (flat,) = sound(tmp_path, camera="back"), sound(real_data, camera="back")
    assert ours.lidar_to_camera is not None
    assert ours.lidar_to_camera == pytest.approx(flat.lidar_to_camera, abs=1e-5)  # the file's float32
    assert ours.intrinsics == flat.intrinsics
    assert (ours.timestamp_us, ours.points_timestamp_us) == (flat.timestamp_us, flat.points_timestamp_us)
    for frame in (ours, flat):
        assert frame.points is not None
        assert frame.lidar_to_camera is not None
        points = NuScenes.read_scan(frame.points).points
        uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
        assert in_image(uv, depth, 900, 1600, (0.0, 1000.0)).sum() == 4826


def test_a_flat_sample_that_describes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text('{"images": {"CAM_FRONT": {}}}')
    (broken,) = listing(tmp_path)
    assert isinstance(broken, Rejected)
    assert broken.reason == "does not describe a keyframe with CAM_FRONT"
