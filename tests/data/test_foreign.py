"""Hostile files: small on disk, large or endless when read. Each is refused by name, within its bounds."""

import bz2
import fcntl
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rosbags.rosbag1.writer
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from simipu_core.config import PairConfig
from simipu_core.data.bags import BagSettings, import_bag
from simipu_core.data.catalogue import REJECTED_FILE, read_frames
from simipu_core.errors import SimipuError
from simipu_core.stages.check import check
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from tests.data import clouds, files
from tests.data.test_bags import IMAGE, POINTS, ROS2, SETTINGS, TIMES, drive, raw_image, write
from tests.data.test_logs import log
from tests.data.test_waymo import SEGMENT, component, rewrite
from tests.sources import any_source
from tests.worlds import World, synthesize

MIB = 1 << 20
ROOM = 160
"""MiB that a frame may take here."""
BOMB = 256 * MIB
"""Of zeros, packed."""


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_FRAME_MEMORY", str(ROOM))


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where a process below this one comes to hold more than a frame may take."""
    first: dict[int, int] = {}
    most, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            for process, held in held_below(os.getpid()).items():
                most[0] = max(most[0], held - first.setdefault(process, held))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert first
    assert most[0] < (ROOM + 80) * MIB < BOMB


def held_below(process: int) -> dict[int, int]:
    """Bytes of memory of its own that each process holds that this one, or its fork server, started."""
    parents: dict[int, int] = {}
    held: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            resident, shared = map(int, (folder / "statm").read_text().split()[1:3])
            held[int(folder.name)] = (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    below: dict[int, int] = {}
    waiting = [process]
    while waiting:
        parent = waiting.pop()
        children = [each for each, its in parents.items() if its == parent and each in held]
        below |= {each: held[each] for each in children}
        waiting += children
    return below


# -- frames ----------------------------------------------------------------------------------------------------------


def with_lying_header() -> bytes:
    """A huge JPEG; to who takes FF 01 for the beginning of a segment, a small one."""
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    frame = small.index(b"\xff\xc0")
    huge = small[: frame + 5] + (32_000).to_bytes(2, "big") * 2 + small[frame + 9 :]
    comment = bytearray(70_000)
    comment[65_538 - 6 :][:9] = small[frame : frame + 9]
    comment[65_534:][:9] = small[frame : frame + 9]
    first, second = bytes(comment[:60_000]), bytes(comment[60_004:])
    parts = [b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part for part in (first, second)]
    return b"\xff\xd8\xff\x01" + b"".join(parts) + huge[2:]


def with_many_scans() -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (24, 80, 3), np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return data[:-2] + 1000 * data[data.rindex(b"\xff\xda") : -2] + data[-2:]


def with_long_chunk() -> bytes:
    return files.image()[:33] + (0x60_00_00_00).to_bytes(4, "big") + b"IDAT" + bytes(40)


def packed_parquet() -> bytes:
    column = np.ones(BOMB // 32)  # the same point again and again
    return clouds.parquet(dict.fromkeys(("x", "y", "z", "intensity"), column))


def packed_pcd() -> bytes:
    """Of zeros: eight as they are, then references of three bytes, each for 264."""
    points = (BOMB // 16 // 33 - 1) * 33 + 17
    body = b"\x07" + bytes(8) + (16 * points - 8) // 264 * b"\xe0\xff\x00"
    header = (
        f"FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH {points}\nPOINTS {points}\nDATA binary_compressed\n"
    )
    return header.encode() + len(body).to_bytes(4, "little") + (16 * points).to_bytes(4, "little") + body


TOO_MUCH = f"takes more than {ROOM} MiB of memory to read (SIMIPU_FRAME_MEMORY)"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "images/front/1.jpg": (with_lying_header, "says it has 32000×32000 pixels"),
    "images/front/2.jpg": (with_many_scans, "JPEG scans; up to 64 are read"),
    "images/front/3.png": (with_long_chunk, "truncated PNG image"),
    "scans/top/4.parquet": (packed_parquet, TOO_MUCH),
    "scans/top/5.pcd": (packed_pcd, TOO_MUCH),
}


def hostile_log(root: Path, names: list[str]) -> None:
    folder = log(root, [str(index) for index in range(7)])
    for name in names:
        next((folder / name).parent.glob(f"{Path(name).stem}.*")).unlink()
        data = HOSTILE[name][0]()
        assert len(data) < BOMB // 80
        files.write(folder / name, data)


def rejected(artifact: Path) -> dict[str, str]:
    entries = json.loads((artifact / REJECTED_FILE).read_text())
    return {entry["sample_id"]: entry["reason"] for entry in entries}


def test_hostile_frames_are_rejected_by_name_and_the_others_are_read(tmp_path: Path) -> None:
    hostile_log(tmp_path / "raw", list(HOSTILE))
    source = any_source(kind="logs", root=str(tmp_path / "raw"), max_broken_share=1)
    with little_memory():
        ingest(source, tmp_path / "frames")
        report = check(source, PairConfig())
    found = rejected(tmp_path / "frames")
    for name, (_, reason) in HOSTILE.items():
        assert reason in found[f"logs/a/front/{Path(name).stem}"]
    assert [row["sample_id"] for row in read_frames(tmp_path / "frames")] == ["logs/a/front/0", "logs/a/front/6"]
    assert {each.sample_id: each.reason for each in report.broken} == found


@pytest.mark.slow
def test_packing_rejects_what_is_too_much_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile_log(tmp_path / "raw", ["scans/top/4.parquet"])
    source = any_source(kind="logs", root=str(tmp_path / "raw"))
    monkeypatch.setenv("SIMIPU_FRAME_MEMORY", "2000")
    ingest(source, tmp_path / "frames")
    monkeypatch.setenv("SIMIPU_FRAME_MEMORY", str(ROOM))
    with little_memory():
        made = pair(tmp_path / "frames", PairConfig(max_broken_share=1, min_points=1), "pairs", tmp_path / "pairs")
    assert rejected(tmp_path / "pairs") == {"logs/a/front/4": f"its frame {TOO_MUCH}"}
    assert made.counts["frames"] == 6


@pytest.mark.slow
def test_a_huge_cell_of_a_component_costs_its_frame_alone(tmp_path: Path) -> None:
    config = World(object_frames=0, drives=0, waymo_segments=1, waymo_frames=3, image_size=(48, 64), lidar_points=640)
    synthesize(config, tmp_path, workers=0)

    def put_bomb(rows: list[dict[str, Any]]) -> None:
        rows[1]["[CameraImageComponent].image"] = bytes(BOMB)

    rewrite(component(tmp_path, "camera_image"), put_bomb, group=1)  # the rows of a group are unpacked together
    source = any_source(kind="waymo", root=str(tmp_path), max_broken_share=1)
    with little_memory():
        made = ingest(source, tmp_path / "frames")
    assert made.counts["frames"] == 2
    ((name, reason),) = rejected(tmp_path / "frames").items()
    assert SEGMENT in name
    assert TOO_MUCH in reason


# -- bags ------------------------------------------------------------------------------------------------------------


def huge() -> Any:
    message = raw_image(TIMES[0])
    message.data = np.zeros(BOMB, np.uint8)
    return message


def ros1_chunk(folder: Path) -> Path:
    """Its chunk is followed by zeros, as many bz2 streams in one."""
    types = get_typestore(Stores.ROS1_NOETIC)
    time = types.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    header = types.types["std_msgs/msg/Header"](seq=0, stamp=time, frame_id="")
    kind = "sensor_msgs/msg/CompressedImage"
    message = types.types[kind](header=header, format="png", data=np.zeros(9, np.uint8))
    compress, zeros = bz2.compress, bz2.compress(bytes(MIB))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rosbags.rosbag1.writer, "bz2_compress", lambda data, _: compress(data) + BOMB // MIB * zeros)
        writer = Writer1(folder / "drive.bag")
        writer.set_compression(Writer1.CompressionFormat.BZ2)
        with writer:
            for topic, name in ((IMAGE, kind), (POINTS, "sensor_msgs/msg/PointCloud2")):
                connection = writer.add_connection(topic, name, typestore=types)
                if topic == IMAGE:
                    writer.write(connection, 1, types.serialize_ros1(message, name))
    return folder / "drive.bag"


def packed(folder: Path, mode: CompressionMode, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    writer = Writer(folder / "drive", version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        for topic, time, message in [*drive(), (IMAGE, TIMES[0] + 1, huge())]:
            kind = message.__msgtype__
            known = next((each for each in writer.connections if each.topic == topic), None)
            connection = known or writer.add_connection(topic, kind, typestore=ROS2)
            writer.write(connection, time, ROS2.serialize_cdr(message, kind))
    return folder / "drive"


def with_table(folder: Path, *statements: str) -> Path:
    bag = write(folder / "drive", drive(), StoragePlugin.SQLITE3)
    with sqlite3.connect(bag / "drive.db3") as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    return bag


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 4 UNION ALL SELECT x + 1 FROM c)"
GENERATED = (
    "ALTER TABLE messages RENAME TO old",
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
    "data BLOB GENERATED ALWAYS AS (zeroblob(900000000)) VIRTUAL)",
    "INSERT INTO messages(topic_id, timestamp) SELECT topic_id, timestamp FROM old",
)
VIEW_OF_SCHEMA = ("DROP TABLE schema", f"CREATE VIEW schema AS {ENDLESS} SELECT sum(x) AS schema_version FROM c")
VIEW_OF_DEFINITIONS = (
    "DROP TABLE message_definitions",
    f"CREATE VIEW message_definitions AS {ENDLESS} SELECT x AS id, '' AS topic_type, '' AS encoding, "
    "'' AS encoded_message_definition, '' AS type_description_hash FROM c",
)
BAGS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "ros1 chunk": (ros1_chunk, re.escape(TOO_MUCH)),
    "mcap chunk": (lambda folder: packed(folder, CompressionMode.STORAGE), "cannot be read as a bag|takes more"),
    "zstd message": (lambda folder: packed(folder, CompressionMode.MESSAGE), re.escape(TOO_MUCH)),
    "zstd file": (lambda folder: packed(folder, CompressionMode.FILE), "unpacks to more than 64 times its size"),
    "generated column": (lambda folder: with_table(folder, *GENERATED), "takes more|out of memory"),
    "endless schema": (lambda folder: with_table(folder, *VIEW_OF_SCHEMA), "takes more than 1 s of processor time"),
    "endless definitions": (  # whichever comes first: the seconds, or the file in which they are sorted
        lambda folder: with_table(folder, *VIEW_OF_DEFINITIONS),
        "takes more than 1 s of processor time|unpacks to more than 64 times its size",
    ),
}
FAST = ("zstd message", "generated column")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in BAGS])
def test_hostile_bags_are_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, sentence = BAGS[name]
    bag = make(tmp_path)
    size = sum(path.stat().st_size for path in (bag.iterdir() if bag.is_dir() else [bag]))
    assert size < BOMB // 500
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    if "endless" in name:
        monkeypatch.setenv("SIMIPU_FRAME_SECONDS", "1")
    with little_memory(), pytest.raises(SimipuError, match=sentence) as raised:
        import_bag(bag, tmp_path / "raw", BagSettings({"front": IMAGE}, POINTS))
    assert str(bag) in str(raised.value)
    assert not (tmp_path / "raw/logs/drive").exists()
    assert not list(scratch.iterdir())


def test_the_second_import_of_a_sequence_leaves_the_first_alone(tmp_path: Path) -> None:
    bag = write(tmp_path / "drive", drive())
    draft = tmp_path / "raw/logs/.drive.partial"
    draft.mkdir(parents=True)
    files.write(draft / "written", "by the first")
    lock = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SimipuError, match="another import is at work on it; wait for its end"):
            import_bag(bag, tmp_path / "raw", SETTINGS)
        assert (draft / "written").is_file()
    finally:
        os.close(lock)
    assert import_bag(bag, tmp_path / "raw", SETTINGS).images == 3


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["ros1-bz2-bomb/a.bag", "db3-topics-endless/bag", "db3-view-blob/bag", "db3-view-endless/bag"]
)
def test_given_hostile_bags_are_refused_by_name(name: str, real_data: Path, tmp_path: Path) -> None:
    bag = real_data / "attacks" / name
    with little_memory(), pytest.raises(SimipuError, match=re.escape(str(bag))):
        import_bag(bag, tmp_path / "raw", BagSettings({"front": IMAGE}, POINTS))


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["jpeg-huge/a.jpg", "jpeg-scans/a.jpg", "png-8191-rgb/a.png", "npy-forged/a.npy", "parquet-dict/a.parquet"]
)
def test_given_hostile_frames_are_rejected_by_name(name: str, real_data: Path, tmp_path: Path) -> None:
    file = real_data / "attacks" / name
    folder = log(tmp_path / "raw", ["0", "1"])
    kind = "images/front" if file.suffix in (".jpg", ".png") else "scans/top"
    next((folder / kind).glob("1.*")).unlink()
    files.write(folder / kind / f"1{file.suffix}", file.read_bytes())
    with little_memory():
        ingest(any_source(kind="logs", root=str(tmp_path / "raw"), max_broken_share=1), tmp_path / "frames")
    costs_little = name.startswith("parquet")  # within these bounds, though many times its size
    assert list(rejected(tmp_path / "frames")) == ([] if costs_little else ["logs/a/front/1"])
