"""Waymo Open Dataset v2 segments: Parquet components, ``<component>/<segment>.parquet``, read with pyarrow alone.

Needed are camera_image, camera_calibration, lidar, lidar_calibration, lidar_pose and vehicle_pose. Where
lidar_camera_projection is there too, each segment's first frame is held against it: the data set's own projection knows
the rolling shutter and the lens, so the two agree to some pixels, unless a calibration is another segment's.

* Points are in the vehicle frame (x forward, y left, z up, origin on the ground) at the frame's time; the TOP scan is
  corrected for the vehicle's motion by its pose per pixel, the others have none. Reflectance is tanh of the intensity.
  Points in no-label zones are left out, as the usual KITTI conversion does.
* Camera: pinhole. The lens distortion is not undone; it reaches some 20 of 1,920 pixels in the corners. The rolling
  shutter is not undone either, but `lidar_to_camera` holds the vehicle's motion from the frame's time (the scan's
  start) to the image's (some 50 ms later), so that standing things project to where they are seen.
* Waymo's pixel 0 begins at the image's edge; ours has its centre there, so the principal point moves by half a pixel.

A frame's image and scan are records of Parquet files; references to them end in ``.parquet#timestamp.camera`` and
``.parquet#timestamp``, or ``.parquet#timestamp.top+front.first`` where some LiDARs or first returns alone are read.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.components import Component, Row, open_component, read_table
from simipu_core.data.formats.range_images import is_return, to_points, uniform_inclinations
from simipu_core.data.formats.scans import Scan, measured
from simipu_core.data.frames import BrokenFrameError, Frame, Listing, Rejected, attempt, flat
from simipu_core.errors import SimipuError
from simipu_core.geometry.cameras import project
from simipu_core.geometry.poses import rotation_error
from simipu_core.parallel import map_frames

CAMERAS = ("front", "front_left", "front_right", "side_left", "side_right")
"""Number 1 and on in the files, which some releases write as upper-case names."""
LIDARS = ("top", "front", "side_left", "side_right", "rear")

_SEGMENT = "key.segment_context_name"
_TIME, _CAMERA, _LIDAR = "key.frame_timestamp_micros", "key.camera_name", "key.laser_name"
_IMAGE = "[CameraImageComponent]"
_CAMERA_CALIBRATION = "[CameraCalibrationComponent]"
_INTRINSIC = tuple(f"{_CAMERA_CALIBRATION}.intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v"))
_LIDAR_CALIBRATION = "[LiDARCalibrationComponent]"
_INCLINATION = f"{_LIDAR_CALIBRATION}.beam_inclination"
_VEHICLE_POSE = "[VehiclePoseComponent].world_from_vehicle.transform"
_RETURNS = tuple(f"[LiDARComponent].range_image_return{number}" for number in (1, 2))
_PIXEL_POSE = "[LiDARPoseComponent].range_image_return1"
_PROJECTION = "[LiDARCameraProjectionComponent].range_image_return1"
_LARGEST_OFFSET = 0.02
"""Of the focal length: largest median distance between our projection and the data set's own."""
_FARTHEST = 1000.0
"""Range that no LiDAR of these measures, metres."""
_PARTS = ("values", "shape")
"""Columns that an array is stored in."""
_ALL = "+".join(LIDARS)
_AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Waymo's camera frame (x forward, y left, z up) to ours (x right, y down, z forward)."""

Floats = NDArray[np.float64]


def segment_frames(folder: Path, source: str, camera: str, lidars: Collection[str], returns: str) -> Listing:
    """Frames of one camera in all segments, by segment name and time; a segment that cannot be listed is Rejected.

    Args:
        folder: the folder that holds the components.
        source: name of the frames' source.
        camera: one of `CAMERAS`.
        lidars: some of `LIDARS`.
        returns: which returns of each pulse, `both` or `first`.
    """
    chosen = "+".join(lidar for lidar in LIDARS if lidar in lidars)
    part = "" if (chosen, returns) == (_ALL, "both") else f".{chosen}.{returns}"
    segments = {file.stem for name in ("camera_image", "lidar") for file in (folder / name).glob("[!.]*.parquet")}
    listed = partial(_listed, folder, source, camera, part)
    rejected = partial(_unlisted, folder, source)
    with closing(map_frames(listed, sorted(segments), f"list {source}", rejected=rejected)) as results:
        for found in results:
            yield from found


def _listed(folder: Path, source: str, camera: str, part: str, segment: str) -> list[Frame | Rejected]:
    try:
        with _well_typed(folder / "camera_image" / f"{segment}.parquet"):
            return list(_Segment(folder, source, segment, camera, part).frames())
    except BrokenFrameError as error:
        return [Rejected(f"{source}/{segment}", segment, error.file, error.reason)]


def _unlisted(folder: Path, source: str, segment: str, reason: str) -> list[Frame | Rejected]:
    file = folder / "camera_image" / f"{segment}.parquet"
    return [Rejected(f"{source}/{segment}", segment, file, f"it or a component beside it {reason}")]


def read_image(record: Path) -> bytes:
    """JPEG file of a camera record.

    Raises:
        BrokenFrameError: it is not there or cannot be read.
    """
    file, time, camera = _split(record)
    with _well_typed(file):
        component = open_component(file, (_TIME, _CAMERA), (f"{_IMAGE}.image",))
        row = component.row(_key(component, time, CAMERAS, CAMERAS.index(camera) + 1))
        return bytes(row[f"{_IMAGE}.image"].as_py())


def read_scan(record: Path) -> Scan:
    """Points of a LiDAR record: the LiDARs and returns that its reference names, TOP first.

    Raises:
        BrokenFrameError: a component that is needed is missing, damaged or does not fit the others.
    """
    file, time, part = _split(record)
    with _well_typed(file):
        stored, sha256 = _read_points(record, file, time, part)
    try:
        points, dropped = measured(stored)
    except SimipuError as error:
        raise BrokenFrameError(record, str(error)) from None
    return Scan(points, sha256, dropped)


def _read_points(record: Path, file: Path, time: int, part: str) -> tuple[NDArray[np.float32], str]:
    """All points that the range images hold, those that are no measurements too, and the sha256 of what made them."""
    chosen, _, returns = part.partition(".")
    columns = _RETURNS[:1] if returns == "first" else _RETURNS
    folder, name = file.parent.parent, file.name
    lidar = open_component(file, (_TIME, _LIDAR), tuple(f"{image}.{part}" for image in columns for part in _PARTS))
    pose_file, calibration_file = folder / "vehicle_pose" / name, folder / "lidar_calibration" / name
    vehicle_pose = _matrix(pose_file, open_component(pose_file, (_TIME,), (_VEHICLE_POSE,)).row((time,))[_VEHICLE_POSE])
    digest = hashlib.sha256(vehicle_pose.tobytes())
    scans = []
    for number in range(1, len(LIDARS) + 1):
        key = _key(lidar, time, LIDARS, number)
        if key not in lidar.keys or LIDARS[number - 1] not in (chosen or _ALL).split("+"):
            continue
        row = lidar.row(key)
        extrinsic, limits, beams = _lidar_calibration(calibration_file, number)
        pixel_pose = _pixel_pose(folder / "lidar_pose" / name, time) if number == 1 else None
        for array in (extrinsic, limits, beams, pixel_pose):
            digest.update(b"" if array is None else array.tobytes())
        for column in columns:
            image = _shaped(file, row, column, 4)
            if image is None:
                continue
            digest.update(image.tobytes())
            ranges = image[..., 0]
            if (farthest := ranges[np.isfinite(ranges)].max(initial=0)) > _FARTHEST:
                raise BrokenFrameError(file, f"has a range of {farthest:.3g} m in {column} of {time}")
            inclinations = uniform_inclinations(limits[0], limits[1], len(image)) if beams is None else beams
            if len(inclinations) != len(image):
                raise BrokenFrameError(
                    calibration_file, f"has {len(inclinations)} beams, but the range image has {len(image)} rows"
                )
            if pixel_pose is not None and pixel_pose.shape[:2] != image.shape[:2]:
                raise BrokenFrameError(folder / "lidar_pose" / name, "its poses have another size than the range image")
            scans.append(to_points(image, inclinations, extrinsic, pixel_pose, vehicle_pose))
    if not scans:
        raise BrokenFrameError(record, "has no range image")
    return np.concatenate(scans), digest.hexdigest()


def projection_offsets(frame: Frame) -> Floats | None:
    """Distances between where a frame's matrices and where the data set's own projection put the points of TOP.

    Args:
        frame: made by `segment_frames`.

    Returns:
        (N,) pixels, for the first returns that the data set projects into the frame's image; None where the component
        lidar_camera_projection has no row of the frame, or no such return.

    Raises:
        BrokenFrameError: a component is damaged, or does not fit the others.
    """
    if frame.points is None or frame.lidar_to_camera is None:
        return None
    file, time, _ = _split(frame.points)
    number = CAMERAS.index(_split(frame.image)[2]) + 1
    projections = file.parent.parent / "lidar_camera_projection" / file.name
    if not projections.is_file():
        return None
    component = open_component(projections, (_TIME, _LIDAR), tuple(f"{_PROJECTION}.{part}" for part in _PARTS))
    lidar = open_component(file, (_TIME, _LIDAR), tuple(f"{_RETURNS[0]}.{part}" for part in _PARTS))
    keys = [_key(each, time, LIDARS, 1) for each in (component, lidar)]
    if keys[0] not in component.keys or keys[1] not in lidar.keys:
        return None
    theirs = _shaped(projections, component.row(keys[0]), _PROJECTION, 6)
    image = _shaped(file, lidar.row(keys[1]), _RETURNS[0], 4)
    if theirs is None or image is None:
        return None
    if theirs.shape[:2] != image.shape[:2]:
        raise BrokenFrameError(projections, "its projections have another size than the range image")
    theirs = theirs[is_return(image)]  # in the order of the points; channels: camera, column, row, and again
    record = file.with_name(f"{file.name}#{time}.{LIDARS[0]}.first")
    with _well_typed(file):
        points, _ = _read_points(record, file, time, f"{LIDARS[0]}.first")
    uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
    found = [
        np.linalg.norm(uv[seen] - theirs[seen, first + 1 : first + 3], axis=1)
        for first in (0, 3)
        for seen in [(theirs[:, first] == number) & (depth > 0)]
    ]
    offsets = np.concatenate(found)
    return offsets if len(offsets) else None


@contextmanager
def _well_typed(file: Path) -> Iterator[None]:
    """Reject a segment whose columns, in spite of their names, hold other things than Waymo's."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BrokenFrameError(file, f"it or a component beside it holds values of a wrong type ({reason})") from None


class _Segment:
    """What a segment's small components say about all its frames."""

    def __init__(self, folder: Path, source: str, name: str, camera: str, part: str) -> None:
        self._folder, self._source, self._name, self._camera, self._part = folder, source, name, camera, part
        number = CAMERAS.index(camera) + 1
        images, poses = self._file("camera_image"), self._file("vehicle_pose")
        columns = (_TIME, _CAMERA, f"{_IMAGE}.pose.transform", f"{_IMAGE}.pose_timestamp")
        self._images = {row[_TIME]: row for row in _rows(images, columns) if _is(row[_CAMERA], CAMERAS, number)}
        self._scans = {row[_TIME] for row in _rows(self._file("lidar"), (_TIME,))}
        self._poses = {row[_TIME]: row[_VEHICLE_POSE] for row in _rows(poses, (_TIME, _VEHICLE_POSE))}
        self._intrinsics, self._to_camera = _camera_calibration(self._file("camera_calibration"), camera)

    def frames(self) -> Iterator[Frame | Rejected]:
        times = sorted(self._images.keys() | self._scans)
        for time in times:
            frame = attempt(f"{self._source}/{self._name}/{time}", self._name, partial(self._frame, time))
            if time == times[0] and isinstance(frame, Frame):
                self._check_projection(frame)
            yield frame

    def _check_projection(self, frame: Frame) -> None:
        """Hold a frame's matrices against the data set's own projection.

        Raises:
            BrokenFrameError: they disagree.
        """
        try:
            offsets = projection_offsets(frame)
        except BrokenFrameError:
            return  # a broken frame is reported where its files are opened
        if offsets is not None and (middle := float(np.median(offsets))) > _LARGEST_OFFSET * frame.intrinsics[0]:
            raise BrokenFrameError(
                self._file("lidar_camera_projection"),
                f"sees the points {middle:.0f} pixels away from where the calibrations and poses put them",
            )

    def _frame(self, time: int) -> Frame:
        image, scan = self._file("camera_image", f"#{time}.{self._camera}"), self._file("lidar", f"#{time}{self._part}")
        if time not in self._images:
            raise BrokenFrameError(image, f"the scan of {time} has no such image")
        if time not in self._scans:
            raise BrokenFrameError(scan, f"the image of {time} has no such scan")
        if time not in self._poses:
            raise BrokenFrameError(self._file("vehicle_pose"), f"has no row {time}")
        row = self._images[time]
        then = _matrix(image, row[f"{_IMAGE}.pose.transform"])
        motion = np.linalg.inv(then) @ _matrix(self._file("vehicle_pose"), self._poses[time])
        taken = row[f"{_IMAGE}.pose_timestamp"]
        return Frame(
            sample_id=f"{self._source}/{self._name}/{time}",
            source=self._source,
            sequence=self._name,
            image=image,
            intrinsics=self._intrinsics,
            points=scan,
            lidar_to_camera=flat(self._to_camera @ motion),
            timestamp_us=round(taken * 1_000_000) if taken else None,
        )

    def _file(self, component: str, record: str = "") -> Path:
        return self._folder / component / f"{self._name}.parquet{record}"


def _camera_calibration(file: Path, camera: str) -> tuple[tuple[float, ...], Floats]:
    """Intrinsics, row-major, and (4, 4) vehicle frame to camera frame."""
    extrinsic = f"{_CAMERA_CALIBRATION}.extrinsic.transform"
    number = CAMERAS.index(camera) + 1
    rows = [row for row in _rows(file, (_CAMERA, extrinsic, *_INTRINSIC)) if _is(row[_CAMERA], CAMERAS, number)]
    if not rows:
        raise BrokenFrameError(file, f"has no row of the camera {camera}")
    values = [rows[0][name] for name in _INTRINSIC]
    if any(value is None or not np.isfinite(value) for value in values) or min(values[:2]) <= 0:
        raise BrokenFrameError(file, f"has no intrinsics of the camera {camera}")
    f_u, f_v, c_u, c_v = values
    intrinsics = (f_u, 0.0, c_u - 0.5, 0.0, f_v, c_v - 0.5, 0.0, 0.0, 1.0)
    return intrinsics, _AXES @ np.linalg.inv(_matrix(file, rows[0][extrinsic]))


def _lidar_calibration(file: Path, number: int) -> tuple[Floats, Floats, Floats | None]:
    """(4, 4) sensor frame to vehicle frame, lowest and highest inclination (2,), and all of them where given."""
    extrinsic, limits = f"{_LIDAR_CALIBRATION}.extrinsic.transform", (f"{_INCLINATION}.min", f"{_INCLINATION}.max")
    columns = (extrinsic, *limits, f"{_INCLINATION}.values")
    component = open_component(file, (_LIDAR,), columns)
    name = LIDARS[number - 1].upper()
    row = component.row((number,) if (number,) in component.keys else (name,))
    ends = np.array([row[column].as_py() for column in limits], np.float64)
    beams = row[f"{_INCLINATION}.values"]
    angles = beams.values.to_numpy(zero_copy_only=False).astype(np.float64) if beams.is_valid else np.empty(0)
    if not np.isfinite(angles if angles.size else ends).all():
        raise BrokenFrameError(file, f"has no beam inclinations of the LiDAR {name}")
    return _matrix(file, row[extrinsic]), ends, angles if angles.size else None


def _pixel_pose(file: Path, time: int) -> Floats:
    component = open_component(file, (_TIME, _LIDAR), tuple(f"{_PIXEL_POSE}.{part}" for part in _PARTS))
    poses = _shaped(file, component.row(_key(component, time, LIDARS, 1)), _PIXEL_POSE, 6)
    if poses is None:
        raise BrokenFrameError(file, f"has no poses of {time}")
    return poses


def _shaped(file: Path, row: Row, column: str, channels: int) -> Floats | None:
    """A column pair `values` and `shape` as (H, W, channels); None where there is none."""
    values, shape = row[f"{column}.values"], row[f"{column}.shape"]
    if not values.is_valid or not len(values.values):
        return None
    array = values.values.to_numpy(zero_copy_only=False)
    sizes = shape.as_py() or []
    if len(sizes) != 3 or min(sizes) < 1 or sizes[2] != channels or sizes[0] * sizes[1] * channels != array.size:
        raise BrokenFrameError(file, f"{array.size} values of {column} do not fill the shape {sizes}")
    if column not in _RETURNS and (bad := int((~np.isfinite(array)).sum())):  # single points may be spoilt
        raise BrokenFrameError(file, f"has {bad} values of {column} that are not finite numbers")
    return np.asarray(array.reshape(sizes))


def _matrix(file: Path, values: Any) -> Floats:
    """(4, 4) from 16 numbers, or from their Arrow scalar."""
    numbers = np.array(values if isinstance(values, list) else values.as_py(), np.float64)
    matrix = numbers.reshape(4, 4) if numbers.shape == (16,) else np.full((4, 4), np.nan)
    if rotation_error(matrix) >= 1e-3:
        raise BrokenFrameError(file, "holds a transform that is no 4×4 rigid motion")
    return matrix


def _rows(file: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return list(read_table(file, *columns).to_pylist())


def _is(value: int | str, names: tuple[str, ...], number: int) -> bool:
    return value in (number, names[number - 1].upper())


def _key(component: Component, time: int, names: tuple[str, ...], number: int) -> tuple[int, int | str]:
    """Key of a sensor's row, whose name is a number in most releases and a word in some."""
    key = (time, number)
    return key if key in component.keys else (time, names[number - 1].upper())


def _split(record: Path) -> tuple[Path, int, str]:
    name, _, key = record.name.partition("#")
    time, _, sensor = key.partition(".")
    return record.with_name(name), int(time), sensor
