from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simipu_core.config import PairConfig
from simipu_core.data.catalogue import examine, read_frames
from simipu_core.data.formats import waymo_segments as waymo
from simipu_core.data.formats.components import Component, open_component
from simipu_core.data.formats.range_images import to_points, uniform_inclinations
from simipu_core.data.frames import BrokenFrameError, Frame, Rejected
from simipu_core.data.images import check_image
from simipu_core.data.shards import Shards
from simipu_core.data.sources.waymo import Waymo
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.sources import any_source
from tests.worlds import World
from tests.worlds.waymo import frame_time_us, segment_name

CONFIG = World(
    object_frames=0, drives=0, waymo_segments=2, waymo_frames=5, image_size=(48, 64), lidar_points=1280, seed=2
)
SEGMENT = segment_name(0)


def listing(root: Path, **changes: Any) -> list[Frame | Rejected]:
    return any_source(kind="waymo", **changes).list_frames(root)


def component(root: Path, name: str) -> Path:
    return root / "waymo/training" / name / f"{SEGMENT}.parquet"


def rewrite(file: Path, change: Callable[[list[dict[str, Any]]], object], group: int = 100) -> None:
    """Change the rows of a component in place."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file, row_group_size=group)


# -- range images ----------------------------------------------------------------------------------------------------


def slowly(image: Any, inclinations: Any, extrinsic: Any, pixel_pose: Any, vehicle_pose: Any) -> list[list[float]]:
    """The published tools' steps, pixel by pixel: row 0 takes the last inclination, column 0 looks back."""

    def turn(axis: int, angle: float) -> Any:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
        return matrix

    height, width, _ = image.shape
    correction = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])
    found = []
    for row in range(height):
        for column in range(width):
            distance, intensity, _, in_zone = image[row, column]
            if distance <= 0 or in_zone == 1:
                continue
            ratio = (width - column - 0.5) / width
            azimuth = (ratio * 2 - 1) * np.pi - correction
            up = inclinations[height - 1 - row]
            ray = np.array([np.cos(azimuth) * np.cos(up), np.sin(azimuth) * np.cos(up), np.sin(up)])
            point = extrinsic @ [*(ray * distance), 1]
            if pixel_pose is not None:
                roll, pitch, yaw, *at = pixel_pose[row, column]
                there = turn(2, yaw) @ turn(1, pitch) @ turn(0, roll) @ point[:3] + at
                point = np.linalg.inv(vehicle_pose) @ [*there, 1]
            found.append([*point[:3], np.tanh(intensity)])
    return found


def some_pose(rng: np.random.Generator, reach: float) -> Any:
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose[:3, 3] = rng.uniform(-reach, reach, 3)
    return pose


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), moving=st.booleans())
def test_points_equal_those_found_pixel_by_pixel(seed: int, moving: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width = 3, 7
    image = rng.uniform(-5, 50, (height, width, 4))
    image[..., 3] = rng.choice([-1, 1], (height, width), p=[0.8, 0.2])
    inclinations = np.sort(rng.uniform(-0.4, 0.3, height))
    poses = np.concatenate((rng.uniform(-1, 1, (height, width, 3)), rng.uniform(-90, 90, (height, width, 3))), axis=2)
    given_poses = (poses, some_pose(rng, 90)) if moving else (None, None)
    extrinsic = some_pose(rng, 3)
    points = to_points(image, inclinations, extrinsic, *given_poses)
    expected = np.array(slowly(image, inclinations, extrinsic, *given_poses)).reshape(-1, 4)
    np.testing.assert_allclose(points, expected, rtol=1e-5, atol=1e-4)
    assert points.dtype == np.float32


def test_uniform_inclinations_are_the_middles_of_equal_steps() -> None:
    np.testing.assert_allclose(uniform_inclinations(-1.0, 1.0, 4), [-0.75, -0.25, 0.25, 0.75])


def test_the_middle_of_a_top_scan_looks_ahead_whatever_the_sensor_heading() -> None:
    image = np.full((1, 101, 4), -1.0)
    image[0, 50, 0] = 10
    turned = np.array([[-0.8, -0.6, 0, 1], [0.6, -0.8, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(to_points(image, np.zeros(1), turned)[0, :3], [11, 0, 2], atol=1e-6)


# -- listing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["", "waymo", "waymo/training"])
def test_frames_are_listed_by_segment_and_time(made: Path, at: str) -> None:
    frames = listing(made / at)
    expected = [f"waymo/{segment_name(i)}/{frame_time_us(i, frame)}" for i in range(2) for frame in range(5)]
    assert [frame.sample_id for frame in frames] == expected
    first = frames[0]
    assert isinstance(first, Frame)
    assert first.sequence == SEGMENT
    assert first.image == Path(f"{component(made, 'camera_image')}#{frame_time_us(0, 0)}.front")
    assert first.points == Path(f"{component(made, 'lidar')}#{frame_time_us(0, 0)}")
    assert first.timestamp_us == frame_time_us(0, 0) + 52_000
    assert check_image(Waymo.read_file(first.image)) == (48, 64)


def test_every_counts_over_all_segments(made: Path) -> None:
    kept = [frame.sample_id for frame in listing(made, every=3)]
    assert kept == [frame.sample_id for frame in listing(made)][::3]
    assert len(kept) == 4
    assert len(range(0, 158_081, 5)) == 31_617


def test_rows_in_any_order_and_sensors_by_word_are_the_same_frames(made: Path, world: Path) -> None:
    for name, names in (("camera_image", waymo.CAMERAS), ("camera_calibration", waymo.CAMERAS)):
        _by_word(component(world, name), "key.camera_name", names)
    for name in ("lidar", "lidar_pose", "lidar_calibration"):
        _by_word(component(world, name), "key.laser_name", waymo.LIDARS)
    for name in ("camera_image", "lidar", "vehicle_pose"):
        rewrite(component(world, name), lambda rows: rows.reverse(), group=3)
    for ours, theirs in zip(listing(made)[:5], listing(world)[:5], strict=True):
        assert isinstance(ours, Frame)
        assert isinstance(theirs, Frame)
        assert ours.lidar_to_camera == theirs.lidar_to_camera
        assert ours.points is not None
        assert theirs.points is not None
        assert Waymo.read_file(ours.image) == Waymo.read_file(theirs.image)
        assert Waymo.read_scan(ours.points).sha256 == Waymo.read_scan(theirs.points).sha256


def _by_word(file: Path, column: str, names: tuple[str, ...]) -> None:
    table = pq.read_table(file)
    words = pa.array([names[number - 1].upper() for number in table[column].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, words), file)


def test_chosen_lidars_and_returns_alone_are_read(made: Path) -> None:
    def points(**choice: Any) -> np.ndarray:
        frame = listing(made, **choice)[3]
        assert isinstance(frame, Frame)
        assert frame.points is not None
        return Waymo.read_scan(frame.points).points

    everything, top, front = points(), points(lidars=["top"]), points(lidars=["front"])
    np.testing.assert_array_equal(np.concatenate((top, front)), everything)
    np.testing.assert_array_equal(points(lidars=["front", "top"]), everything)
    first, both = points(lidars=["top"], returns="first"), len(top)
    np.testing.assert_array_equal(top[: len(first)], first)
    assert 0 < len(first) < both
    frame = listing(made, lidars=["front", "top"], returns="first")[0]
    assert isinstance(frame, Frame)
    assert str(frame.points).endswith(f".parquet#{frame_time_us(0, 0)}.top+front.first")
    frame = listing(made, lidars=["rear"])[0]
    assert isinstance(frame, Frame)
    rejected = examine(made, frame)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "has no range image"


def test_a_camera_that_is_not_there_is_named(made: Path) -> None:
    found = listing(made, camera="side_left")
    assert [each.reason for each in found if isinstance(each, Rejected)] == ["has no row of the camera side_left"] * 2


def test_tfrecords_are_refused_with_what_to_download(tmp_path: Path) -> None:
    (tmp_path / "waymo").mkdir()
    (tmp_path / "waymo/segment-1.tfrecord").write_bytes(b"")
    with pytest.raises(SimipuError, match=r"v1 .tfrecord files.*v2 Parquet components \(camera_image"):
        listing(tmp_path)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"kind": "waymo", "frames": "train_half"}, "unknown key `frames`"),
        ({"kind": "nyu", "camera": "side_left"}, "unknown key `camera`"),
        ({"kind": "waymo", "camera": "back"}, "`camera`: Input should be 'front', 'front_left', .*'side_right'"),
        ({"kind": "nuscenes", "camera": "side_left"}, "`camera`: Input should be 'front', .*'back_right'"),
        ({"kind": "nuscenes", "lidars": ["top"]}, "unknown key `lidars`"),
        ({"kind": "waymo_kitti", "returns": "first"}, "unknown key `returns`"),
        ({"kind": "nyu_labelled", "lists": ["train.txt"]}, "unknown key `lists`"),
        ({"kind": "nyu", "depth": "in_painted"}, "unknown key `depth`"),
        ({"kind": "nyu", "split": "nyu_official"}, "`split`: Input should be .*'by_sequence' or 'folders'"),
        (
            {"kind": "kitti_object", "split": "eigen"},
            "`split`: Input should be 'none', 'within_sequence' or 'by_sequence'",
        ),
        ({"kind": "mixed", "split": "eigen", "sources": [{"kind": "nyu"}]}, "`split`: Input should be 'none'"),
        ({"kind": "mixed", "every": 2, "sources": [{"kind": "nyu"}]}, "are options of each of the sources"),
        ({"kind": "mixed", "sources": [{"kind": "nyu", "camera": "front"}]}, "unknown key `sources.0.camera`"),
        ({"kind": "logs", "log_lidar": "top"}, "log_lidar is called `lidar` now: write that instead"),
    ],
)
def test_choices_of_another_kind_are_refused(choice: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SimipuError, match=sentence):
        any_source(**choice)


# -- through the stages ----------------------------------------------------------------------------------------------


def test_waymo_frames_become_pairs_and_depth(made: Path, tmp_path: Path) -> None:
    manifest = ingest(any_source(kind="waymo", root=str(made), split="by_sequence"), tmp_path / "catalogue")
    assert manifest.counts["frames"] == manifest.counts["with_scan"] == 10
    rows = read_frames(tmp_path / "catalogue")
    assert rows[0]["image"] == f"waymo/training/camera_image/{SEGMENT}.parquet#{frame_time_us(0, 0)}.front"
    config = PairConfig(min_points=20, depth_from="projected_lidar")
    for target in Target:
        packed = pair(tmp_path / "catalogue", config, target, tmp_path / target)
        assert packed.counts["broken"] == 0
    row = Shards(tmp_path / "pairs", "pairs").row(0)
    assert row["source"] == "waymo"
    assert len(np.frombuffer(row["points"], "<f4")) >= 80


Target: tuple[Literal["pairs", "depth"], ...] = ("pairs", "depth")


@pytest.mark.parametrize("target", Target)
def test_reading_by_component_changes_no_shard(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Literal["pairs", "depth"]
) -> None:
    """Rows stand in their own order, whether frames were read in it or by component, by one process or two."""
    ingest(any_source(kind="waymo", root=str(made), split="within_sequence"), tmp_path / "catalogue")
    packed = pair(tmp_path / "catalogue", PairConfig(min_points=20), "pairs", tmp_path / "pairs")
    fewest = round(packed.counts["mean_points_in_image"])  # so that rejected frames stand between the others
    config = PairConfig(min_points=fewest, depth_from="projected_lidar", max_broken_share=1, rows_per_group=2)
    digests, counts = {}, {}
    for name in ("by component", "together", "in order"):
        monkeypatch.setattr("simipu_core.parallel._FEWEST", 1 if name == "together" else 100)
        if name == "in order":
            monkeypatch.setattr("simipu_core.data.reading_order._container", lambda _: None)
        manifest = pair(tmp_path / "catalogue", config, target, tmp_path / name)
        digests[name], counts[name] = manifest.digest, manifest.counts
        assert not (tmp_path / name / ".unsorted").exists()
    assert len(set(digests.values())) == 1
    assert counts["by component"] == counts["together"] == counts["in order"]
    assert counts["in order"]["broken"] > 0


def test_each_component_is_read_once_from_beginning_to_end(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(any_source(kind="waymo", root=str(made)), tmp_path / "catalogue")
    begun: list[tuple[str, int]] = []
    stream = Component._stream_group

    def counted(self: Component, group: int) -> Any:
        begun.append((f"{self._file} {self._columns}", group))
        return stream(self, group)

    def here(work: Any, items: Any, *_: Any, **__: Any) -> Any:
        yield from map(work, items)

    monkeypatch.setattr("simipu_core.data.reading_order.map_frames", here)
    monkeypatch.setattr(Component, "_stream_group", counted)
    open_component.__globals__["_open"].cache_clear()
    pair(tmp_path / "catalogue", PairConfig(min_points=20), "pairs", tmp_path / "pairs")
    streams = [each for each in begun if "calibration" not in each[0]]
    assert len(streams) == len(set(streams)) == 2 * 4 * 2  # segments, components, row groups


def test_a_scan_that_changed_is_not_paired(world: Path, tmp_path: Path) -> None:
    ingest(any_source(kind="waymo", root=str(world)), tmp_path / "catalogue")

    def shift(rows: list[dict[str, Any]]) -> None:
        rows[0]["[VehiclePoseComponent].world_from_vehicle.transform"][3] += 0.5

    rewrite(component(world, "vehicle_pose"), shift)
    with pytest.raises(SimipuError, match=rf"lidar/{SEGMENT}.parquet#{frame_time_us(0, 0)}: changed since"):
        pair(tmp_path / "catalogue", PairConfig(min_points=20), "pairs", tmp_path / "pairs")


def drop_top(rows: list[dict[str, Any]]) -> None:
    del rows[0]


def stretch(rows: list[dict[str, Any]]) -> None:
    rows[0]["[VehiclePoseComponent].world_from_vehicle.transform"][0] = float("nan")


def forge_shape(rows: list[dict[str, Any]]) -> None:
    rows[0]["[LiDARComponent].range_image_return1.shape"] = [2**31 - 1, 2**31 - 1, 4]


def put_nan(rows: list[dict[str, Any]]) -> None:
    rows[0]["[LiDARComponent].range_image_return1.values"][8] = float("nan")


def put_huge(rows: list[dict[str, Any]]) -> None:
    rows[0]["[LiDARComponent].range_image_return1.values"][:4] = [3e38, 0, 0, -1]


def cut_image(rows: list[dict[str, Any]]) -> None:
    rows[0]["[CameraImageComponent].image"] = rows[0]["[CameraImageComponent].image"][:-40]


DAMAGE: dict[str, tuple[str, Callable[[list[dict[str, Any]]], object], str, str]] = {
    "image row gone": ("camera_image", drop_top, f"#{frame_time_us(0, 0)}.front", "has no such image"),
    "image cut": ("camera_image", cut_image, f"#{frame_time_us(0, 0)}.front", "truncated JPEG image"),
    "pixel poses gone": ("lidar_pose", drop_top, "", f"has no row {frame_time_us(0, 0)}.TOP"),
    "vehicle pose gone": ("vehicle_pose", drop_top, "", f"has no row {frame_time_us(0, 0)}"),
    "no rotation": ("vehicle_pose", stretch, "", "holds a transform that is no 4×4 rigid motion"),
    "forged shape": ("lidar", forge_shape, "", "do not fill the shape [2147483647, 2147483647, 4]"),
    "huge range": ("lidar", put_huge, "", "has a range of 3e+38 m"),
}


def test_a_range_that_is_no_number_is_left_out_and_counted(world: Path) -> None:
    frames = [frame for frame in listing(world) if isinstance(frame, Frame)]
    assert frames[0].points is not None
    before = Waymo.read_scan(frames[0].points)
    rewrite(component(world, "lidar"), put_nan)
    after = Waymo.read_scan(frames[0].points)
    assert after.dropped == before.dropped._replace(not_finite=1)
    assert len(before.points) - len(after.points) in (0, 1)  # there may have been no return
    assert {tuple(point) for point in after.points} <= {tuple(point) for point in before.points}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_record_breaks_its_frame_only(world: Path, damage: str) -> None:
    name, change, record, reason = DAMAGE[damage]
    file = component(world, name)
    rewrite(file, change)
    results = [examine(world, frame) if isinstance(frame, Frame) else frame for frame in listing(world)]
    (broken,) = [each for each in results if isinstance(each, Rejected)]
    assert broken.sample_id == f"waymo/{SEGMENT}/{frame_time_us(0, 0)}"
    assert broken.file == Path(f"{file}{record}")
    assert reason in broken.reason


def lose(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def rename_column(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.rename_columns([*table.column_names[:-1], "other"]), file)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("camera_image", lose, "cannot be read (No such file or directory)"),
        ("camera_calibration", truncate, "cannot be read as Parquet"),
        ("vehicle_pose", rename_column, "the column [VehiclePoseComponent].world_from_vehicle.transform is missing"),
        ("lidar", truncate, "cannot be read as Parquet"),
    ],
)
def test_a_broken_component_breaks_its_segment_only(
    world: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    damage(component(world, name))
    broken, *sound = listing(world)
    assert isinstance(broken, Rejected)
    assert (broken.sample_id, broken.file) == (f"waymo/{SEGMENT}", component(world, name))
    assert reason in broken.reason
    assert len([frame for frame in sound if isinstance(frame, Frame)]) == 5


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_crash_nothing_and_spare_other_segments(world: Path, seed: int) -> None:
    file = component(world, "lidar")
    data, rng = bytearray(file.read_bytes()), np.random.default_rng(seed)
    start = int(rng.integers(4, len(data) - 3000))
    data[start : start + 3000] = rng.bytes(3000)
    file.write_bytes(data)
    results = [examine(world, frame) if isinstance(frame, Frame) else frame for frame in listing(world)]
    assert sum(not isinstance(each, Rejected) for each in results) >= 5


def turn_camera(rows: list[dict[str, Any]]) -> None:
    extrinsic = np.reshape(rows[0]["[CameraCalibrationComponent].extrinsic.transform"], (4, 4))
    angle = np.deg2rad(5)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    extrinsic[:3, :3] = turn @ extrinsic[:3, :3]
    rows[0]["[CameraCalibrationComponent].extrinsic.transform"] = extrinsic.ravel().tolist()


def test_a_calibration_that_the_own_projection_contradicts_breaks_its_segment(world: Path) -> None:
    rewrite(component(world, "camera_calibration"), turn_camera)
    broken, *sound = listing(world)
    assert isinstance(broken, Rejected)
    assert (broken.sample_id, broken.file) == (f"waymo/{SEGMENT}", component(world, "lidar_camera_projection"))
    assert "pixels away from where the calibrations and poses put them" in broken.reason
    assert len(sound) == 5
    component(world, "lidar_camera_projection").unlink()
    assert len(listing(world)) == 10


# -- components ------------------------------------------------------------------------------------------------------


def test_rows_are_found_in_any_order(tmp_path: Path) -> None:
    values = [[float(i)] * 5 for i in range(23)]
    pq.write_table(pa.table({"k": list(range(23)), "v": values}), tmp_path / "c.parquet", row_group_size=5)
    rows = Component(tmp_path / "c.parquet", ("k",), ("v",))
    for key in [0, 1, 7, 3, 22, 22, 4, 5, 19, *np.random.default_rng(0).permutation(23).tolist()]:
        assert rows.row((key,))["v"].as_py() == values[key]
    with pytest.raises(BrokenFrameError, match="has no row 99"):
        rows.row((99,))


def test_a_file_that_changed_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "c.parquet"
    for value in (1, 22):
        pq.write_table(pa.table({"k": [0], "v": [str(value)]}), file)
        assert open_component(file, ("k",), ("v",)).row((0,))["v"].as_py() == str(value)


@pytest.mark.real_data
def test_the_real_vehicle_poses_are_read(real_data: Path) -> None:
    (file,) = (real_data / "waymo/v2_parquet/vehicle_pose").iterdir()
    column = "[VehiclePoseComponent].world_from_vehicle.transform"
    poses = open_component(file, ("key.frame_timestamp_micros",), (column,))
    assert len(poses.keys) == 199
    pose = np.reshape(poses.row((1552440195362591,))[column].as_py(), (4, 4))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(pose[:3, 3], [860.5948, 15568.6748, -651.4410], atol=1e-3)


@pytest.mark.real_data
def test_the_real_tfrecord_is_refused_with_a_reason(real_data: Path) -> None:
    with pytest.raises(SimipuError, match=r"v1 \.tfrecord files"):
        listing(real_data / "waymo")
