"""nuScenes keyframes: the public tables ``v1.0-trainval/*.json`` beside ``samples/``, or a flat sample of one keyframe.

* Tables: the first of `VERSIONS` that is there is read. Sequences are scenes, frames are in order of time.
* Points: LIDAR_TOP as stored, float32 x, y, z, intensity 0–255 and ring. The sensor's x points to the right; here the
  scan is turned about its own z axis, so that x points the way the camera looks (by `CAMERAS`, in whole degrees) and y
  to its left: the same ranges of x, y and z fit every camera, and those of KITTI. z stays the sensor's.
* `lidar_to_camera` goes through the world: the vehicle's motion from the scan's time to the image's is in it, so that
  standing things project to where they are seen. Both timestamps are the sensors' own, up to 50 ms apart.
* Images come without distortion.

The flat sample is ``calibration.json`` beside the files: one keyframe in the form of a 3D detection toolbox, with
``lidar_points.lidar_path`` and, for each channel of ``images``, img_path, cam2img, lidar2cam and timestamp.

References to scans end in ``.pcd.bin#camera``.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.files import read_text
from simipu_core.data.formats.json_tables import Record, records, value
from simipu_core.data.formats.scans import Scan, parse_points
from simipu_core.data.frames import BrokenFrameError, Frame, Listing, attempt, flat
from simipu_core.data.sources.base import Found, Official, Source, Typical, make_scan
from simipu_core.errors import SimipuError
from simipu_core.geometry.poses import pose, rotation_error

_NAME = "nuscenes"
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
CAMERAS = {"front": 0, "front_left": 55, "front_right": -55, "back": 180, "back_left": 110, "back_right": -110}
"""Where each camera looks, degrees to the left of the vehicle's x."""

Camera = Literal["front", "front_left", "front_right", "back", "back_left", "back_right"]

_SCENES, _KEYFRAMES = 850, 34_149
_LIDAR = "LIDAR_TOP"
_FLAT = "calibration.json"
_COLUMNS = 5
_TIME_IN_NAME = re.compile(r"__(\d{16})\.")

Floats = NDArray[np.float64]


class NuScenes(Source):
    """Keyframes of nuScenes v1.0, nuscenes/: six cameras and LIDAR_TOP, without depth maps."""

    kind: Literal["nuscenes"] = "nuscenes"
    camera: Camera = "front"
    """The camera whose images are read."""

    expected: ClassVar = "nuscenes/v1.0-trainval/sample.json"
    licence: ClassVar = "CC BY-NC-SA 4.0 and the nuScenes terms of use (non-commercial)"
    typical: ClassVar = Typical((900, 1600), 170_000, 330_000, 50_000, 0, 14_000)

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds the tables' folder or the flat sample."""
        return _version(folder) is not None or (folder / _FLAT).is_file()

    def each_frame(self, folder: Path) -> Listing:
        """Keyframes of the camera, by scene and time; those that lack a record are Rejected.

        Args:
            folder: holds the tables' folder and ``samples/``, or the flat sample.

        Raises:
            SimipuError: a table is missing or damaged.
        """
        version = _version(folder)
        if version is None:
            yield attempt(f"{self.kind}/flat", "flat", partial(_flat_frame, folder, self.camera))
            return
        tables = _Tables(folder, version, self.camera)
        for scene, time, sample in tables.samples():
            sample_id = f"{self.kind}/{scene}/{time}"
            yield attempt(sample_id, scene, partial(tables.frame, sample_id, scene, sample))

    @classmethod
    def read_scan(cls, file: Path) -> Scan:
        """The points of a scan: x ahead of the camera that the reference names, y left, z up, metres; intensity 0–1."""
        name, _, camera = file.name.rpartition("#")
        return make_scan(file, cls.read_file(file.with_name(name)), partial(_parse, camera))

    def official(self, found: Found, root: Path) -> list[Official]:
        """Scenes and keyframes of trainval."""
        return [
            Official("nuScenes trainval scenes", _SCENES, len({frame.sequence for frame in found})),
            Official("nuScenes trainval keyframes", _KEYFRAMES, len(found)),
        ]

    def published(self) -> tuple[int, int] | None:
        """Keyframes of trainval."""
        return (self.thinned(_KEYFRAMES), 0) if self.split == "none" else None


def _parse(camera: str, data: bytes) -> NDArray[np.float32]:
    points = parse_points(data, _COLUMNS)[:, :4].copy()
    turn = _to_sensor(camera)[:3, :3].astype(np.float32)
    with np.errstate(invalid="ignore"):  # points that are not finite
        points[:, :3] = np.einsum("ji,nj->ni", turn, points[:, :3])
        if ((points[:, 3] < 0) | (points[:, 3] > 255)).any():
            raise SimipuError("has intensities outside 0–255")
        points[:, 3] /= 255
    return points


def _to_sensor(camera: str) -> Floats:
    """(4, 4) rotation from the turned frame, x ahead of the camera, to the sensor's (x right, y ahead of the car)."""
    angle = np.deg2rad(CAMERAS[camera] + 90)
    turn = np.eye(4)
    turn[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).round(15)
    return turn


def _version(folder: Path) -> Path | None:
    return next((folder / name for name in VERSIONS if (folder / name).is_dir()), None)


class _Tables:
    """What the tables say about the keyframes of one camera and of the LiDAR; other rows are not kept."""

    def __init__(self, folder: Path, version: Path, camera: str) -> None:
        self._folder, self._version, self._camera = folder, version, camera
        channels = {token: _text(file, row, "channel") for token, file, row in self._rows("sensor")}
        used = (_LIDAR, _channel(camera))
        self._calibrated: dict[str, Record] = {}
        self._data: dict[str, dict[str, Record]] = {channel: {} for channel in used}
        sensor_of: dict[str, str] = {}
        for token, file, row in self._rows("calibrated_sensor"):
            channel = channels.get(_text(file, row, "sensor_token"))
            if channel in used:
                self._calibrated[token], sensor_of[token] = row, channel
        for _, file, row in self._rows("sample_data"):
            channel = sensor_of.get(_text(file, row, "calibrated_sensor_token"))
            if channel and row.get("is_key_frame"):
                self._data[channel][_text(file, row, "sample_token")] = row
        needed = {row.get("ego_pose_token") for rows in self._data.values() for row in rows.values()}
        self._poses = {token: row for token, _, row in self._rows("ego_pose") if token in needed}
        self._scenes = {token: _text(file, row, "name") for token, file, row in self._rows("scene")}

    def samples(self) -> list[tuple[str, int, str]]:
        """Scene, time in microseconds, and token of every keyframe, sorted."""
        found = []
        for token, file, row in self._rows("sample"):
            scene = _text(file, row, "scene_token")
            if scene not in self._scenes:
                raise SimipuError(f"{self._file('scene')}: has no record {scene}; unpack the metadata archive again.")
            found.append((self._scenes[scene], value(file, row, "timestamp", int), token))
        return sorted(found)

    def frame(self, sample_id: str, scene: str, sample: str) -> Frame:
        """One keyframe.

        Raises:
            BrokenFrameError: a record is missing or unsound.
        """
        scan, image = (self._find(rows, sample, "sample_data") for rows in self._data.values())
        camera = self._find(self._calibrated, image.get("calibrated_sensor_token"), "calibrated_sensor")
        lidar = self._find(self._calibrated, scan.get("calibrated_sensor_token"), "calibrated_sensor")
        lidar_to_world = self._pose(scan) @ _rigid(self._file("calibrated_sensor"), lidar)
        camera_to_world = self._pose(image) @ _rigid(self._file("calibrated_sensor"), camera)
        return _frame(
            sample_id,
            scene,
            self._camera,
            _inside(self._folder, image.get("filename"), self._file("sample_data")),
            _inside(self._folder, scan.get("filename"), self._file("sample_data")),
            _intrinsics(self._file("calibrated_sensor"), camera.get("camera_intrinsic")),
            np.linalg.inv(camera_to_world) @ lidar_to_world,
            (image.get("timestamp"), scan.get("timestamp")),
        )

    def _pose(self, data: Record) -> Floats:
        return _rigid(self._file("ego_pose"), self._find(self._poses, data.get("ego_pose_token"), "ego_pose"))

    def _find(self, rows: dict[str, Record], token: Any, table: str) -> Record:
        if token not in rows:
            raise BrokenFrameError(self._file(table), f"has no record {token}")
        return rows[token]

    def _file(self, table: str) -> Path:
        return self._version / f"{table}.json"

    def _rows(self, table: str) -> Iterator[tuple[str, Path, Record]]:
        """Token, file and record of each row."""
        file = self._file(table)
        return ((_text(file, row, "token"), file, row) for row in records(file))


def _text(file: Path, record: Record, field: str) -> str:
    return value(file, record, field, str)


def _channel(camera: str) -> str:
    return f"CAM_{camera.upper()}"


def _flat_frame(folder: Path, camera: str) -> Frame:
    file = folder / _FLAT
    try:
        content = json.loads(read_text(file))
        image, scan = content["images"][_channel(camera)], content["lidar_points"]["lidar_path"]
        names, times = (image["img_path"], scan), (round(image["timestamp"] * 1e6), _time_in(scan))
        intrinsics, lidar_to_camera = image["cam2img"], np.array(image["lidar2cam"], np.float64)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise BrokenFrameError(file, f"does not describe a keyframe with {_channel(camera)}") from None
    return _frame(
        f"{_NAME}/flat",
        "flat",
        camera,
        _inside(folder, names[0], file),
        _inside(folder, names[1], file),
        _intrinsics(file, intrinsics),
        _check_rigid(file, lidar_to_camera),
        times,
    )


def _time_in(name: str) -> int:
    found = _TIME_IN_NAME.search(name)
    if found is None:
        raise ValueError(f"no time in {name}")
    return int(found[1])


def _frame(
    sample_id: str,
    sequence: str,
    camera: str,
    image: Path,
    scan: Path,
    intrinsics: Floats,
    lidar_to_camera: Floats,
    times: tuple[Any, Any],
) -> Frame:
    return Frame(
        sample_id=sample_id,
        source=_NAME,
        sequence=sequence,
        image=image,
        intrinsics=flat(intrinsics),
        points=scan.with_name(f"{scan.name}#{camera}"),
        lidar_to_camera=flat(lidar_to_camera @ _to_sensor(camera)),
        timestamp_us=_time(times[0]),
        points_timestamp_us=_time(times[1]),
    )


def _time(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else None


def _inside(folder: Path, name: Any, table: Path) -> Path:
    """The file that a table names, which must lie below the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise BrokenFrameError(table, "names no file of a frame")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BrokenFrameError(table, f"names the file {name}, which lies outside the data set")
    return folder / path


def _intrinsics(file: Path, values: Any) -> Floats:
    matrix = _numbers(values, (3, 3))
    if matrix is None or min(matrix[0, 0], matrix[1, 1]) <= 0 or (matrix[2] != (0, 0, 1)).any() or matrix[1, 0] != 0:
        raise BrokenFrameError(file, "holds intrinsics that are no camera matrix")
    return matrix


def _rigid(file: Path, record: Record) -> Floats:
    """(4, 4) from the translation, metres, and the rotation, a unit quaternion w, x, y, z."""
    shift, quaternion = _numbers(record.get("translation"), (3,)), _numbers(record.get("rotation"), (4,))
    if shift is None or quaternion is None:
        raise BrokenFrameError(file, f"the record {record.get('token')} holds no rotation and translation")
    if not abs(quaternion @ quaternion - 1) < 1e-3:
        raise BrokenFrameError(file, f"the record {record.get('token')} holds a rotation that is no unit quaternion")
    return pose(shift, np.roll(quaternion, -1))


def _check_rigid(file: Path, matrix: Floats) -> Floats:
    if rotation_error(matrix) >= 1e-3:
        raise BrokenFrameError(file, "holds a transform that is no 4×4 rigid motion")
    return matrix


def _numbers(values: Any, shape: tuple[int, ...]) -> Floats | None:
    try:
        array = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if array.shape == shape and np.isfinite(array).all() else None
