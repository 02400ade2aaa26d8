"""Bags that rosbags itself writes, unpacked and read as own logs."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from simipu_core.data import bags, ros_messages
from simipu_core.data.bag_reader import BagReader
from simipu_core.data.bags import BagSettings, Imported, import_bag
from simipu_core.data.catalogue import examine
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.images import decode_image
from simipu_core.data.sources import source_named
from simipu_core.data.sources.logs import Logs
from simipu_core.errors import SimipuError
from simipu_core.parallel import apart
from tests.data import files
from tests.sources import any_source

ROS2 = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, INFO, POINTS = "/camera/image_raw", "/camera/camera_info", "/lidar/points"
SETTINGS = BagSettings({"front": IMAGE}, POINTS, {"front": INFO})
TIMES = [1_700_000_000_000_000_000 + step * 100_000_000 for step in range(3)]
DELAY = 7_000_000
COLOURS = np.random.default_rng(0).integers(0, 256, (files.HEIGHT, files.WIDTH, 3), dtype=np.uint8)
# the camera's mount sits 2 m ahead of the LiDAR; its optical frame is turned to x right, y down, z forward
MOUNT, OPTICAL = (2.0, 0.5, -0.1), (-0.5, 0.5, -0.5, 0.5)
AXES = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]


def make(kind: str, **values: Any) -> Any:
    return ROS2.types[kind](**values)


def header(time: int, frame: str) -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=time // 10**9, nanosec=time % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def raw_image(time: int, encoding: str = "rgb8", padding: int = 5) -> Any:
    pixels = {"rgb8": COLOURS, "bgr8": COLOURS[..., ::-1], "mono8": COLOURS[..., 0]}[encoding]
    rows = pixels.reshape(files.HEIGHT, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)))
    return make(
        "sensor_msgs/msg/Image",
        header=header(time, "front_optical"),
        height=files.HEIGHT,
        width=files.WIDTH,
        encoding=encoding,
        is_bigendian=0,
        step=padded.shape[1],
        data=padded.ravel(),
    )


def compressed_image(time: int, data: bytes) -> Any:
    content = np.frombuffer(data, np.uint8)
    return make("sensor_msgs/msg/CompressedImage", header=header(time, "front_optical"), format="jpeg", data=content)


def points(time: int, cloud: Any, frame: str = "lidar") -> Any:
    """x, y, z float32, four bytes of padding, 8-bit intensity, 16-bit ring: 19 bytes a point."""
    names = (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 16, 2), ("ring", 17, 4))
    field = "sensor_msgs/msg/PointField"
    table = np.zeros(len(cloud), [("xyz", "<f4", 3), ("_", "<u4"), ("intensity", "u1"), ("ring", "<u2")])
    table["xyz"], table["intensity"] = cloud[:, :3], np.rint(cloud[:, 3] * 255)
    return make(
        "sensor_msgs/msg/PointCloud2",
        header=header(time, frame),
        height=1,
        width=len(cloud),
        fields=[make(field, name=name, offset=offset, datatype=kind, count=1) for name, offset, kind in names],
        is_bigendian=False,
        point_step=19,
        row_step=19 * len(cloud),
        data=np.frombuffer(table.tobytes(), np.uint8),
        is_dense=False,
    )


def camera_info(time: int, distortion: tuple[float, ...] = (-0.1, 0.01, 0.0, 0.0, 0.0)) -> Any:
    region = make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header(time, "front_optical"),
        height=files.HEIGHT,
        width=files.WIDTH,
        distortion_model="plumb_bob",
        d=np.array(distortion, np.float64),
        k=np.array([60.0, 0, 40, 0, 61, 12, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([50.0, 0, 41, 0, 0, 51, 13, 0, 0, 0, 1, 0]),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def transforms(*entries: tuple[str, str, tuple[float, ...], tuple[float, ...]]) -> Any:
    """Entries of parent, child, translation, quaternion (x, y, z, w)."""
    stamped = []
    for parent, child, shift, turn in entries:
        moved = make(
            "geometry_msgs/msg/Transform",
            translation=make("geometry_msgs/msg/Vector3", x=shift[0], y=shift[1], z=shift[2]),
            rotation=make("geometry_msgs/msg/Quaternion", x=turn[0], y=turn[1], z=turn[2], w=turn[3]),
        )
        kind = "geometry_msgs/msg/TransformStamped"
        stamped.append(make(kind, header=header(TIMES[0], parent), child_frame_id=child, transform=moved))
    return make("tf2_msgs/msg/TFMessage", transforms=stamped)


STATIC = transforms(("lidar", "mount", MOUNT, (0, 0, 0, 1)), ("mount", "front_optical", (0, 0, 0), OPTICAL))
Recorded = list[tuple[str, int, Any]]


def drive(image: Callable[[int], Any] = raw_image) -> Recorded:
    messages: Recorded = [("/tf_static", TIMES[0], STATIC), (INFO, TIMES[0], camera_info(TIMES[0]))]
    for index, time in enumerate(TIMES):
        messages += [(POINTS, time, points(time, files.scan(index))), (IMAGE, time, image(time + DELAY))]
    return messages


def write(bag: Path, messages: Recorded, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    with Writer(bag, version=9, storage_plugin=storage) as writer:
        topics: dict[str, Any] = {}
        for topic, time, message in messages:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(topics[topic], time, ROS2.serialize_cdr(message, kind))
    return bag


def write_ros_1(bag: Path, messages: Recorded) -> Path:
    """ROS 1 knows these types under the same names; the header's sequence number and CameraInfo's capitals differ."""
    noetic = get_typestore(Stores.ROS1_NOETIC)
    noetic.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))

    def to_ros_1(message: Any) -> Any:
        kind = message.__msgtype__
        names = [each.name for each in fields(cast(Any, noetic.types[kind]))]
        values: dict[str, Any] = {}
        for name in names:
            if name == "seq":
                values[name] = 0
                continue
            value = getattr(message, name if hasattr(message, name) else name.lower(), None)
            if isinstance(value, list):
                value = [to_ros_1(each) for each in value]
            values[name] = to_ros_1(value) if hasattr(value, "__msgtype__") else value
        return noetic.types[kind](**{name: values[name] for name in names if name in values})

    with Writer1(bag) as writer:
        topics: dict[str, Any] = {}
        for topic, time, message in messages:
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=noetic)
            writer.write(topics[topic], time, noetic.serialize_ros1(to_ros_1(message), kind))
    return bag


def frames(root: Path) -> list[Frame | Rejected]:
    return any_source(kind="logs", root=str(root)).list_frames(root)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_ros_2_bag_becomes_frames_that_ingest_accepts(tmp_path: Path, storage: StoragePlugin) -> None:
    made = import_bag(write(tmp_path / "drive", drive(), storage), tmp_path / "raw", SETTINGS)
    assert made == Imported(tmp_path / "raw/logs/drive", images=3, scans=3)
    found = frames(tmp_path / "raw")
    assert [frame.sample_id for frame in found] == [f"logs/drive/front/{time + DELAY}" for time in TIMES]
    for index, frame in enumerate(found):
        assert isinstance(frame, Frame)
        assert frame.points is not None
        assert (frame.timestamp_us, frame.points_timestamp_us) == ((TIMES[index] + DELAY) // 1000, TIMES[index] // 1000)
        np.testing.assert_array_equal(decode_image(frame.image.read_bytes()), COLOURS)
        scan = source_named(frame.source).read_scan(frame.points).points
        np.testing.assert_array_equal(scan[:, :3], files.scan(index)[:, :3])
        np.testing.assert_allclose(scan[:, 3], files.scan(index)[:, 3], atol=0.5 / 255 + 1e-6)
        assert frame.intrinsics == (60.0, 0.0, 40.0, 0.0, 61.0, 12.0, 0.0, 0.0, 1.0)
        assert (frame.lens, frame.distortion) == ("plumb_bob", (-0.1, 0.01, 0.0, 0.0, 0.0))
        assert not isinstance(examine(tmp_path / "raw", frame), Rejected)


def test_the_camera_sits_where_the_static_transforms_say(tmp_path: Path) -> None:
    import_bag(write(tmp_path / "drive", drive()), tmp_path, SETTINGS)
    (frame, *_) = frames(tmp_path)
    assert isinstance(frame, Frame)
    expected = np.eye(4)
    expected[:3, :3] = AXES
    expected[:3, 3] = -expected[:3, :3] @ MOUNT
    np.testing.assert_allclose(np.reshape(frame.lidar_to_camera or (), (4, 4)), expected, atol=1e-12)


def test_a_single_mcap_file_is_a_bag_too(tmp_path: Path) -> None:
    (file,) = write(tmp_path / "drive", drive()).glob("*.mcap")
    assert import_bag(file, tmp_path, SETTINGS).images == 3


def test_a_ros_1_bag_is_read(tmp_path: Path) -> None:
    made = import_bag(write_ros_1(tmp_path / "old.bag", drive()), tmp_path, SETTINGS)
    assert (made.images, made.scans, made.left_out, made.missing) == (3, 3, [], [])
    assert all(isinstance(frame, Frame) for frame in frames(tmp_path))


def test_definitions_in_a_bag_are_not_made_code_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = get_typestore(Stores.EMPTY)
    own.register(get_types_from_msg("uint8 value", "own_msgs/msg/Own"))
    bag = tmp_path / "drive"
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics: dict[str, Any] = {}
        for topic, time, message in drive():
            kind = message.__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(topics[topic], time, ROS2.serialize_cdr(message, kind))
        extra = writer.add_connection("/own", "own_msgs/msg/Own", typestore=own)
        writer.write(extra, TIMES[0], own.serialize_cdr(own.types["own_msgs/msg/Own"](7), "own_msgs/msg/Own"))
    generated: list[Any] = []
    monkeypatch.setattr("rosbags.typesys.store.generate_python_code", generated.append)
    made = import_bag(bag, tmp_path, SETTINGS)
    assert (made.images, made.scans, made.left_out, made.missing) == (3, 3, [], [])
    assert generated == []


def test_messages_of_another_definition_than_their_name_says_are_refused(tmp_path: Path) -> None:
    kind = "sensor_msgs/msg/Image"
    forged = get_typestore(Stores.EMPTY)
    forged.register(get_types_from_msg("uint8 value", kind))
    bag = tmp_path / "drive"
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection(IMAGE, kind, typestore=forged)
        writer.write(topic, TIMES[0], forged.serialize_cdr(forged.types[kind](7), kind))
        writer.add_connection(POINTS, "sensor_msgs/msg/PointCloud2", typestore=ROS2)
    with pytest.raises(SimipuError, match=f"{IMAGE} holds messages called {kind} of another definition"):
        import_bag(bag, tmp_path, BagSettings({"front": IMAGE}, POINTS))


def test_compressed_images_keep_their_bytes(tmp_path: Path) -> None:
    jpeg, png = files.image(3, ".jpg"), files.image(4)
    import_bag(write(tmp_path / "jpeg", drive(lambda time: compressed_image(time, jpeg))), tmp_path, SETTINGS)
    import_bag(write(tmp_path / "png", drive(lambda time: compressed_image(time, png))), tmp_path, SETTINGS)
    images = {frame.image.suffix: frame.image.read_bytes() for frame in frames(tmp_path) if isinstance(frame, Frame)}
    assert images == {".jpg": jpeg, ".png": png}


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_encodings_of_raw_images(tmp_path: Path, encoding: str) -> None:
    import_bag(write(tmp_path / "drive", drive(lambda time: raw_image(time, encoding))), tmp_path, SETTINGS)
    (frame, *_) = frames(tmp_path)
    assert isinstance(frame, Frame)
    expected = COLOURS if encoding == "bgr8" else np.repeat(COLOURS[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode_image(frame.image.read_bytes()), expected)


def test_rectified_topics_have_the_projection_and_no_distortion(tmp_path: Path) -> None:
    settings = BagSettings({"front": IMAGE}, POINTS, {"front": INFO}, is_rectified=True)
    import_bag(write(tmp_path / "drive", drive()), tmp_path, settings)
    (frame, *_) = frames(tmp_path)
    assert isinstance(frame, Frame)
    assert frame.intrinsics[:6] == (50.0, 0.0, 41.0, 0.0, 51.0, 13.0)
    assert frame.distortion is None


def test_what_the_bag_does_not_say_is_named_and_missed_by_the_reader(tmp_path: Path) -> None:
    bag = write(tmp_path / "drive", [each for each in drive() if each[0] in (IMAGE, POINTS)])
    made = import_bag(bag, tmp_path, BagSettings({"front": IMAGE}, POINTS))
    assert made.missing == [
        "drive/calibration.yaml lacks fx, fy, cx, cy of front (no CameraInfo topic was given or recorded): "
        "write them there.",
        "drive/calibration.yaml lacks lidar_to_camera of front (/tf_static does not join 'lidar' and "
        "'front_optical'): write it there.",
    ]
    file = made.folder / "calibration.yaml"
    assert all(f"# {sentence}\n" in file.read_text() for sentence in made.missing)
    found = frames(tmp_path)
    assert len(found) == 3
    assert all(isinstance(each, Rejected) and "give fx, fy, cx and cy" in each.reason for each in found)

    values = yaml.safe_load(file.read_text())
    values["cameras"]["front"] |= {"fx": 60, "fy": 60, "cx": 40, "cy": 12}
    values["cameras"]["front"]["camera_to_lidar"] = {"translation": list(MOUNT), "quaternion_xyzw": list(OPTICAL)}
    file.write_text(yaml.safe_dump(values))
    assert all(isinstance(each, Frame) for each in frames(tmp_path))


def test_an_import_that_was_killed_goes_on(tmp_path: Path) -> None:
    bag = write(tmp_path / "drive", drive())
    with closing(apart(bags._import, bag, tmp_path / "raw/logs/drive", SETTINGS, 1 << 20)) as steps:
        for _ in range(5):  # of eight messages, two of which leave no file
            next(steps)
    assert not (tmp_path / "raw/logs/drive").exists()
    with pytest.raises(SimipuError, match="holds no logs frames"):
        frames(tmp_path / "raw")
    assert 2 <= import_bag(bag, tmp_path / "raw", SETTINGS).reused <= 6
    assert import_bag(bag, tmp_path / "whole", SETTINGS).reused == 0
    content = [
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "raw", tmp_path / "whole")
    ]
    assert content[0] == content[1]
    assert len(content[0]) == 7


def test_messages_that_lie_about_their_size_are_left_out(tmp_path: Path) -> None:
    messages = drive()
    huge, short = points(TIMES[0] + 1, files.scan()), raw_image(TIMES[0] + 1)
    huge.width = 2**32 - 1
    short.height = 10_000
    outside, blank = points(TIMES[0] + 2, files.scan()), raw_image(0)
    outside.fields[0].offset = 4_000_000_000
    messages += [(POINTS, TIMES[0] + 1, huge), (IMAGE, TIMES[0] + 1, short), (POINTS, TIMES[0] + 2, outside)]
    messages += [(IMAGE, TIMES[0] + 3, blank), (IMAGE, TIMES[0] + 4, compressed_image(TIMES[0] + 4, b"\xff\xd8GIF"))]
    messages = [each for each in messages if each[2].__msgtype__ != "sensor_msgs/msg/CompressedImage"]
    made = import_bag(write(tmp_path / "drive", messages), tmp_path, SETTINGS)
    assert (made.images, made.scans, len(made.left_out)) == (3, 3, 4)
    said = "\n".join(made.left_out)
    assert "says it has 4294967295 points" in said
    assert "too few for 10000 rows of 80 pixels" in said
    assert "has a field x that ends outside its points of 19 bytes" in said
    assert "has no time in its header; import with --receive-time" in said


def test_points_without_a_return_are_left_out(tmp_path: Path) -> None:
    cloud = files.scan()
    cloud[::7, :3] = np.nan
    messages = [each for each in drive() if each[0] != POINTS] + [(POINTS, TIMES[0], points(TIMES[0], cloud))]
    import_bag(write(tmp_path / "drive", messages), tmp_path, SETTINGS)
    (frame,) = (frame for frame in frames(tmp_path) if isinstance(frame, Frame))
    assert frame.points is not None
    assert len(Logs.read_scan(frame.points).points) == np.isfinite(cloud).all(axis=1).sum()


def test_wrong_bags_topics_and_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    bag = write(tmp_path / "drive", drive())
    cases: list[tuple[Path, BagSettings, str | None, str]] = [
        (tmp_path / "none", SETTINGS, None, "no such bag"),
        (bag, BagSettings({"front": "/x"}, POINTS), None, f"has no topic /x of Image or .* this type: {IMAGE}"),
        (
            bag,
            BagSettings({"front": IMAGE}, IMAGE),
            None,
            f"has no topic {IMAGE} of PointCloud2 .* this type: {POINTS}",
        ),
        (bag, SETTINGS, "../out", "a name consists of letters"),
        (files.write(tmp_path / "bad.mcap", b"\x89MCAP0\r\n" + bytes(99)), SETTINGS, None, "cannot be read as a bag"),
        (files.write(tmp_path / "bad.bag", b"#ROSBAG V2.0\n" + bytes(99)), SETTINGS, None, "cannot be read as a bag"),
        (files.write(tmp_path / "bad.db3", b"SQLite format 3\0"), SETTINGS, None, "cannot be read as a bag"),
    ]
    for path, settings, sequence, sentence in cases:
        with pytest.raises(SimipuError, match=sentence):
            import_bag(path, tmp_path / "raw", settings, sequence)
        assert not (tmp_path / "raw").exists()
    import_bag(bag, tmp_path / "raw", SETTINGS)
    with pytest.raises(SimipuError, match="already exists"):
        import_bag(bag, tmp_path / "raw", SETTINGS)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_damaged_bags_end_in_one_sentence_or_are_read(tmp_path: Path, storage: StoragePlugin) -> None:
    whole = write(tmp_path / "drive", drive(), storage)
    (file,) = (path for path in whole.iterdir() if path.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for attempt in range(25):
        damaged = bytearray(data[: rng.integers(len(data))] if attempt % 3 == 0 else data)
        for position in rng.integers(len(damaged), size=30):
            damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        try:
            list(bags._import(whole, tmp_path / f"raw{attempt}" / "logs/drive", SETTINGS, 1 << 30))
        except SimipuError:
            refused += 1
    assert refused >= 8


def with_region(info: Any, **values: int) -> Any:
    region = {name: value for name, value in values.items() if not name.startswith("binning")}
    return replace(info, roi=replace(info.roi, **region), **{k: v for k, v in values.items() if k not in region})


def test_intrinsics_are_of_the_region_and_the_binned_pixels() -> None:
    whole = replace(camera_info(TIMES[0]), height=48, width=160)
    cut = with_region(whole, x_offset=16, y_offset=4, width=80, height=24)
    values = ros_messages.intrinsics(cut, is_rectified=False)
    assert (values["size"], values["fx"], values["fy"], values["cx"], values["cy"]) == ([24, 80], 60, 61, 24, 8)
    binned = with_region(whole, binning_x=2, binning_y=2)
    values = ros_messages.intrinsics(binned, is_rectified=False)
    assert (values["size"], values["fx"], values["fy"]) == ([24, 80], 30, 30.5)
    assert (values["cx"], values["cy"]) == (19.75, 5.75)  # (40 - 1/2) / 2 and (12 - 1/2) / 2
    both = with_region(cut, x_offset=16, y_offset=4, width=80, height=24, binning_x=2, binning_y=4)
    values = ros_messages.intrinsics(both, is_rectified=True)
    assert (values["size"], values["cx"], values["cy"]) == ([6, 40], (41 - 16 - 0.5) / 2, (13 - 4 - 1.5) / 4)


def test_intrinsics_of_another_size_are_left_out_and_named(tmp_path: Path) -> None:
    messages = [(topic, time, replace(each, height=480) if topic == INFO else each) for topic, time, each in drive()]
    made = import_bag(write(tmp_path / "drive", messages), tmp_path / "raw", SETTINGS)
    (sentence,) = made.missing
    assert "its CameraInfo is for 480×80 pixels, but its images have 24×80" in sentence


def timed(times: NDArray[Any], name: str, kind: int, stamp: int = TIMES[0]) -> Any:
    """A PointCloud2 with a time of each point, and intensities of 32 bits."""
    dtype = {8: "<f8", 7: "<f4", 6: "<u4"}[kind]
    table = np.zeros(len(times), [("xyz", "<f4", 3), ("intensity", "<f4"), ("t", dtype)])
    table["xyz"][:, 0], table["intensity"], table["t"] = np.arange(1, len(times) + 1), np.arange(len(times)), times
    field = "sensor_msgs/msg/PointField"
    names = (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7), (name, 16, kind))
    return replace(
        points(stamp, files.scan()),
        width=len(times),
        fields=[make(field, name=each, offset=at, datatype=type_, count=1) for each, at, type_ in names],
        point_step=table.itemsize,
        row_step=table.nbytes,
        data=np.frombuffer(table.tobytes(), np.uint8),
    )


SWEEP = np.linspace(0, 0.1, 101)


@pytest.mark.parametrize(
    ("times", "name", "kind", "middle"),
    [
        (SWEEP, "time", 7, 50_000_000),
        (SWEEP * 1e9, "t", 6, 50_000_000),
        (SWEEP * 1e6, "offset_time", 6, 50_000_000),
        (SWEEP - 0.1, "time", 7, -50_000_000),
        (SWEEP + TIMES[0] / 1e9, "timestamp", 8, 50_000_000),
        (SWEEP * 1e9 - 1e8 + TIMES[0], "timestamp", 8, -50_000_000),
        (SWEEP * 1e-9, "time", 7, None),
        (SWEEP + 5e8, "timestamp", 8, None),
    ],
)
def test_the_middle_of_a_sweep_is_told_from_the_times_of_its_points(
    times: NDArray[Any], name: str, kind: int, middle: int | None
) -> None:
    found = ros_messages.sweep_middle_ns(timed(times, name, kind))
    assert (found is None) == (middle is None)
    assert abs((found or 0) - (middle or 0)) < 1000


def test_scans_are_named_by_the_middle_and_their_scale_is_guessed_once(tmp_path: Path) -> None:
    messages = [
        (topic, time, timed(SWEEP * 1e9, "t", 6, time) if topic == POINTS else each) for topic, time, each in drive()
    ]
    made = import_bag(write(tmp_path / "drive", messages), tmp_path / "raw", SETTINGS)
    names = sorted(path.stem for path in (tmp_path / "raw/logs/drive/scans/lidar").iterdir())
    assert names == [str(time + 50_000_000) for time in TIMES]
    (sentence,) = made.missing
    assert sentence == (
        "drive/calibration.yaml: the reflectance_scale 255 is a guess from the strongest return, 100: write the "
        "sensor's own there, the same for all its bags."
    )
    untold = [
        (topic, time, timed(SWEEP * 0, "t", 6, time) if topic == POINTS else each) for topic, time, each in drive()
    ]
    made = import_bag(write(tmp_path / "other", untold), tmp_path / "raw", SETTINGS)
    assert "drive" not in made.missing[0]
    assert made.missing[0].endswith("times of single points cannot be told, so that scans have those of their headers.")


def test_intensities_of_8_bits_go_up_to_255_however_weak(tmp_path: Path) -> None:
    dark = files.scan()
    dark[:, 3] = 1 / 255
    messages = [(topic, time, points(time, dark) if topic == POINTS else each) for topic, time, each in drive()]
    made = import_bag(write(tmp_path / "drive", messages), tmp_path / "raw", SETTINGS)
    assert made.missing == []
    calibration = yaml.safe_load((tmp_path / "raw/logs/drive/calibration.yaml").read_text())
    assert calibration["lidars"]["lidar"]["reflectance_scale"] == 255


def test_types_without_msg_in_their_names_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "drive", drive())
    opened = Reader2.open

    def open_short(reader: Reader2) -> None:
        opened(reader)
        for index, each in enumerate(reader.storage.connections):
            short = each._replace(msgtype=each.msgtype.replace("/msg/", "/"))
            reader.storage.connections[index] = short

    monkeypatch.setattr(Reader2, "open", open_short)
    with closing(BagReader(bag)) as reader:
        assert {each.msgtype for each in reader.connections} >= {"sensor_msgs/msg/Image", "tf2_msgs/msg/TFMessage"}
        assert all("/msg/" in each.msgtype for each in reader.connections)


def test_a_wrong_topic_lists_what_is_there(tmp_path: Path) -> None:
    bag = write(tmp_path / "drive", drive())
    with pytest.raises(SimipuError) as refused:
        import_bag(bag, tmp_path / "raw", BagSettings({"front": IMAGE}, "/velodyne_points"))
    assert str(refused.value) == (
        f"{bag}: has no topic /velodyne_points of PointCloud2 messages; its topics of this type: /lidar/points; of all "
        "4: /camera/camera_info (CameraInfo), /camera/image_raw (Image), /lidar/points (PointCloud2), /tf_static "
        "(TFMessage)."
    )
