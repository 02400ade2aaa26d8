"""ROS 1 and ROS 2 recordings (.bag, .db3, .mcap) unpacked to the layout of own logs, without ROS."""

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.interfaces import Connection

from simipu_core.data import ros_messages
from simipu_core.data.bag_reader import BagReader
from simipu_core.data.formats.log_calibration import NAME as CALIBRATION
from simipu_core.data.images import encode_png, image_size
from simipu_core.data.npy import parse_npy
from simipu_core.data.sources import logs
from simipu_core.errors import SimipuError
from simipu_core.files import put_in_place, temporary_folder, write_file
from simipu_core.geometry.poses import Matrix, inverse, pose
from simipu_core.parallel import apart
from simipu_core.progress import progress
from simipu_core.workers import LostError

LIDAR = "lidar"
"""Name given to the LiDAR."""
_SETTINGS = ".import.json"
_MOST_RATIO, _MOST_BYTES = 64, 1 << 26
"""Of its size, and besides, a bag may unpack to."""
_LISTED = 20
"""Topics named where one is not there."""
_STATIC_TRANSFORMS = "/tf_static"
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_POINT_TYPE = "sensor_msgs/msg/PointCloud2"
_INFO_TYPE = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class BagSettings:
    """What to take out of a bag, and how."""

    images: Mapping[str, str]
    """Topic of the images (Image or CompressedImage) by the name that the camera is to have."""
    points: str
    """Topic of the scans (PointCloud2)."""
    infos: Mapping[str, str] = field(default_factory=dict)
    """Topic of the CameraInfo by camera."""
    is_rectified: bool = False
    """The image topics are rectified: intrinsics are CameraInfo's P, and there is no distortion."""
    use_receive_time: bool = False
    """Name files by when messages were recorded, not by the time in their headers."""
    reflectance_scale: float | None = None
    """Raw intensity of reflectance 1; None: 255 where intensities have 8 bits, else the first of 1, 255 and 65535 that
    holds all that was seen, which is a guess and told as such."""


@dataclass
class Imported:
    """What was made of a bag."""

    folder: Path
    images: int = 0
    scans: int = 0
    reused: int = 0
    """Of these, files that an interrupted import had written already."""
    dropped: int = 0
    """Points of the scans that are no measurements."""
    left_out: list[str] = field(default_factory=list)
    """Messages that could not be used, with reasons."""
    missing: list[str] = field(default_factory=list)
    """What the bag does not say and calibration.yaml therefore lacks or guesses; one sentence each."""


def import_bag(bag: Path, out: Path, settings: BagSettings, sequence: str | None = None) -> Imported:
    """Unpack a bag to ``out/logs/<sequence>/``, which appears whole at the end.

    Files are first written below ``out/logs/.<sequence>.partial``; an import that was interrupted goes on there.

    Args:
        bag: .bag or .mcap file, or the folder of a ROS 2 bag.
        out: root of the raw data; may hold other sequences.
        settings: topics and reading.
        sequence: name of the folder; by default the bag's.

    Raises:
        SimipuError: the bag or a topic is not there or cannot be read, the sequence exists, or nothing can be written.
    """
    name = sequence or re.sub(r"[^A-Za-z0-9._+-]", "_", bag.stem).lstrip(".") or "bag"
    if not logs.is_sound_name(name):
        raise SimipuError(f"--sequence {name}: a name consists of letters, digits and . _ + -; choose another.")
    target = out / logs.NAME / name
    if target.exists():
        raise SimipuError(f"{target}: already exists; remove it or give another --sequence.")
    if not bag.exists():
        raise SimipuError(f"{bag}: no such bag; give a .bag or .mcap file, or the folder of a ROS 2 bag.")
    with (
        temporary_folder("import") as scratch,
        closing(apart(_import_bounded, bag, target, settings, str(scratch))) as steps,
    ):
        try:
            total = next(steps)
            assert isinstance(total, int)  # noqa: S101 (what is yielded first)
            with progress(f"import {name}", total) as advance:
                for step in steps:
                    if isinstance(step, Imported):
                        return step
                    advance()
        except LostError as lost:
            raise SimipuError(f"{bag}: {lost.reason}; raise that only for a bag that you trust.") from None
    raise SimipuError(f"{bag}: cannot be read as a bag.")


def _import_bounded(bag: Path, target: Path, settings: BagSettings, scratch: str) -> Iterator[int | Imported]:
    """`_import` in a process of its own, whose files are bounded, too; what readers unpack goes to `scratch`."""
    tempfile.tempdir = scratch
    most = _MOST_RATIO * _size(bag) + _MOST_BYTES
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    yield from _import(bag, target, settings, most)


def _import(bag: Path, target: Path, settings: BagSettings, most: int) -> Iterator[int | Imported]:
    """Import a bag: yields the number of messages, their numbers as they are done, and what was made.

    Args:
        bag: as for `import_bag`.
        target: folder of the sequence.
        settings: as for `import_bag`.
        most: bytes to write.
    """
    with closing(_opened(bag)) as reader:
        connections = _choose(bag, reader, settings)
        yield sum(each.msgcount for each in connections)
        try:
            with _draft(target) as draft:
                _begin(draft, bag, settings)
                unpacking = _Unpacking(draft, settings, Imported(target))
                messages = _messages(bag, reader, connections, unpacking.made)
                for number, (connection, time, message) in enumerate(messages):
                    unpacking.take(connection, time, message)
                    if unpacking.written > most:
                        raise _too_large(bag)
                    yield number
                made = unpacking.finish(bag)
                (draft / _SETTINGS).unlink()
                put_in_place(draft, target)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise _too_large(bag) from None
            raise SimipuError(
                f"{target}: cannot be written ({error.strerror}); free space or choose another."
            ) from None
    yield made


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """The folder to unpack to, for one process at a time.

    Raises:
        SimipuError: another import is at work there, or has ended meanwhile.
    """
    draft = target.with_name(f".{target.name}.partial")
    draft.mkdir(parents=True, exist_ok=True)
    lock = os.open(draft, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SimipuError(
                    f"{target}: another import is at work on it; wait for its end or give another --sequence."
                ) from None
        if target.exists():  # the other has ended meanwhile, and what is locked is no draft any more
            raise SimipuError(f"{target}: already exists; remove it or give another --sequence.")
        yield draft
    finally:
        os.close(lock)


def _opened(bag: Path) -> BagReader:
    try:
        return BagReader(bag)
    except MemoryError:
        raise
    except Exception as error:  # readers of three formats, each with errors of its own
        raise _unreadable(bag, error) from None


def _unreadable(bag: Path, error: Exception) -> SimipuError:
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return _too_large(bag)
    if getattr(error.__cause__, "extendedresult", None) == sqlite3.SQLITE_IOERR_WRITE:  # of what a query sorts
        return _too_large(bag)
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return SimipuError(
        f"{bag}: cannot be read as a bag ({reason}); repair it with `ros2 bag reindex`, `rosbag reindex` or "
        "`mcap recover`."
    )


def _too_large(bag: Path) -> SimipuError:
    return SimipuError(
        f"{bag}: unpacks to more than {_MOST_RATIO} times its size; if you trust it, unpack it with "
        "`ros2 bag convert` or `rosbag decompress` first."
    )


def _choose(bag: Path, reader: BagReader, settings: BagSettings) -> list[Connection]:
    """The wanted topics' connections, and that of static transforms."""
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(settings.images.values(), _IMAGE_TYPES)
    wanted |= {settings.points: (_POINT_TYPE,), **dict.fromkeys(settings.infos.values(), (_INFO_TYPE,))}
    known = {each.topic: each.msgtype for each in reader.connections}
    for topic, types in wanted.items():
        if known.get(topic) not in types:
            fitting = ", ".join(sorted(name for name, kind in known.items() if kind in types)) or "none"
            short = " or ".join(kind.rpartition("/")[2] for kind in types)
            others = ", ".join(f"{name} ({kind.rpartition('/')[2]})" for name, kind in sorted(known.items())[:_LISTED])
            raise SimipuError(
                f"{bag}: has no topic {topic} of {short} messages; its topics of this type: {fitting}; of all "
                f"{len(known)}: {others or 'none'}."
            )
    chosen = [each for each in reader.connections if each.topic in wanted or each.topic == _STATIC_TRANSFORMS]
    reader.check_definitions(chosen)
    return chosen


def _begin(draft: Path, bag: Path, settings: BagSettings) -> None:
    """Empty the folder, unless it is that of an interrupted import of the same."""
    about = {"bag": bag.name, "bytes": _size(bag), **asdict(settings)}
    file = draft / _SETTINGS
    if not file.is_file() or file.read_text(encoding="utf-8") != json.dumps(about):
        for entry in draft.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        file.write_text(json.dumps(about), encoding="utf-8")


def _size(bag: Path) -> int:
    return sum(file.stat().st_size for file in bag.rglob("*")) if bag.is_dir() else bag.stat().st_size


def _messages(
    bag: Path, reader: BagReader, connections: list[Connection], made: Imported
) -> Iterator[tuple[Connection, int, Any]]:
    """Messages in the order of recording; what cannot be decoded is noted and None."""
    stream = reader.messages(connections)
    while True:
        try:
            connection, time, data = next(stream)
        except StopIteration:
            return
        except MemoryError:
            raise
        except Exception as error:  # as in _opened
            raise _unreadable(bag, error) from None
        try:
            message = reader.decode(data, connection.msgtype)
        except Exception:  # generated decoders fail in as many ways as there are damaged messages
            made.left_out.append(f"{connection.topic} at {time}: cannot be decoded")
            message = None
        yield connection, time, message


class _Unpacking:
    def __init__(self, draft: Path, settings: BagSettings, made: Imported) -> None:
        self._draft, self._settings, self.made = draft, settings, made
        self._cameras = {topic: name for name, topic in settings.images.items()}
        self._info_of = {topic: name for name, topic in settings.infos.items()}
        self._infos: dict[str, Any] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._frames: dict[str, str] = {}
        self._transforms: dict[str, dict[str, Matrix]] = {}
        self._strongest: float | None = None
        self._is_of_8_bits = self._are_times_unknown = False
        self.written = 0
        """Bytes."""
        for name in (*(f"images/{camera}" for camera in settings.images), f"scans/{LIDAR}"):
            (draft / name).mkdir(parents=True, exist_ok=True)

    def take(self, connection: Connection, time: int, message: Any) -> None:
        """Write or remember one message."""
        if message is None:
            return
        topic = connection.topic
        if topic == _STATIC_TRANSFORMS:
            for each in message.transforms:
                self._add_transform(each)
        elif topic in self._info_of:
            self._infos.setdefault(self._info_of[topic], message)
        else:
            try:
                if not self._settings.use_receive_time:
                    time = ros_messages.stamp_ns(message)
                if topic in self._cameras:
                    self._take_image(self._cameras[topic], time, connection.msgtype, message)
                else:
                    self._take_scan(time, message)
            except SimipuError as error:
                self.made.left_out.append(f"{topic} at {time}: {error}")

    def _take_image(self, camera: str, time: int, kind: str, message: Any) -> None:
        if kind == _IMAGE_TYPES[1]:
            data = bytes(message.data)
            size = image_size(data)
            suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        else:
            size, suffix, data = (message.height, message.width), ".png", b""
        file = self._draft / "images" / camera / f"{time}{suffix}"
        if not self._is_there(file):
            self._write(file, data or encode_png(ros_messages.pixels(message)))
        self._sizes.setdefault(camera, size)
        self._frames.setdefault(camera, message.header.frame_id.lstrip("/"))
        self.made.images += 1

    def _take_scan(self, time: int, message: Any) -> None:
        if not self._settings.use_receive_time and ros_messages.has_point_times(message):
            middle = ros_messages.sweep_middle_ns(message)
            self._are_times_unknown |= middle is None
            time += middle or 0
        self._is_of_8_bits = ros_messages.is_of_8_bits(message)
        file = self._draft / "scans" / LIDAR / f"{time}.npy"
        if self._is_there(file):
            points = parse_npy(file.read_bytes())
        else:
            points = ros_messages.cloud(message)
            buffer = BytesIO()
            np.save(buffer, points, allow_pickle=False)
            self._write(file, buffer.getvalue())
        if points.shape[1] > 3:
            self._strongest = max(self._strongest or 0.0, float(points[:, 3].max()))
        self.made.dropped += message.height * message.width - len(points)
        self._frames.setdefault(LIDAR, message.header.frame_id.lstrip("/"))
        self.made.scans += 1

    def _write(self, file: Path, data: bytes) -> None:
        write_file(file, data)
        self.written += len(data)

    def _is_there(self, file: Path) -> bool:
        if found := file.is_file():
            self.made.reused += 1
        return found

    def _add_transform(self, stamped: Any) -> None:
        """Keep both directions; a transform moves points from the child's frame to the header's."""
        parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
        shift, turn = stamped.transform.translation, stamped.transform.rotation
        quaternion = np.array([turn.x, turn.y, turn.z, turn.w], np.float64)
        if not 0.99 < np.linalg.norm(quaternion) < 1.01:
            return
        to_parent = pose(np.array([shift.x, shift.y, shift.z], np.float64), quaternion)
        self._transforms.setdefault(child, {})[parent] = to_parent
        self._transforms.setdefault(parent, {})[child] = inverse(to_parent)

    def finish(self, bag: Path) -> Imported:
        """Write the calibration; what the bag does not tell is left out of it and named."""
        made = self.made
        if not made.images or not made.scans:
            reasons = "; ".join(made.left_out[:3])
            raise SimipuError(
                f"{bag}: gave {made.images} images and {made.scans} scans ({reasons or 'none recorded'})."
            )
        file = f"{made.folder.name}/{CALIBRATION}"
        cameras = {name: self._camera(name, file) for name in self._settings.images if name in self._sizes}
        if self._are_times_unknown:
            made.missing.append(
                f"{file}: the times of single points cannot be told, so that scans have those of their headers."
            )
        lidar: dict[str, Any] = {"columns": ["x", "y", "z", "intensity"], "reflectance_scale": self._scale(file)}
        if self._strongest is None:
            lidar = {"columns": ["x", "y", "z"], "reflectance_scale": None}
        text = yaml.safe_dump(
            {"time_unit": "ns", "cameras": cameras, "lidars": {LIDAR: lidar}}, sort_keys=False, default_flow_style=None
        )
        notes = "".join(f"# {sentence}\n" for sentence in made.missing)
        write_file(self._draft / CALIBRATION, (notes + text).encode())
        return made

    def _camera(self, name: str, file: str) -> dict[str, Any]:
        camera: dict[str, Any] = {"size": list(self._sizes[name])}
        problem = "no CameraInfo topic was given or recorded"
        if name in self._infos:
            try:
                found = ros_messages.intrinsics(self._infos[name], self._settings.is_rectified)
                problem = ""
                if found["size"] != camera["size"]:
                    problem = "its CameraInfo is for {}×{} pixels, but its images have {}×{}".format(
                        *found["size"], *camera["size"]
                    )
                else:
                    camera |= found
            except SimipuError as error:
                problem = str(error)
        if problem:
            self.made.missing.append(f"{file} lacks fx, fy, cx, cy of {name} ({problem}): write them there.")
        matrix = self._path(self._frames[LIDAR], self._frames[name])
        if matrix is None:
            self.made.missing.append(
                f"{file} lacks lidar_to_camera of {name} ({_STATIC_TRANSFORMS} does not join {self._frames[LIDAR]!r} "
                f"and {self._frames[name]!r}): write it there."
            )
        else:
            camera["lidar_to_camera"] = {"matrix": matrix.tolist()}
        return camera

    def _path(self, start: str, end: str) -> Matrix | None:
        """Transform from one frame's points to another's, along the fewest static transforms."""
        found, waiting = {start: np.eye(4)}, deque([start])
        while waiting and end not in found:
            here = waiting.popleft()
            for there, step in self._transforms.get(here, {}).items():
                if there not in found:
                    found[there] = step @ found[here]
                    waiting.append(there)
        return found.get(end)

    def _scale(self, file: str) -> float:
        if self._settings.reflectance_scale is not None:
            return self._settings.reflectance_scale
        if self._is_of_8_bits:
            return 255.0
        strongest = self._strongest or 0.0
        scale = next((scale for scale in (1.0, 255.0, 65535.0) if strongest <= scale), strongest)
        if self._strongest is not None:
            self.made.missing.append(
                f"{file}: the reflectance_scale {scale:g} is a guess from the strongest return, {strongest:g}: write "
                "the sensor's own there, the same for all its bags."
            )
        return scale
