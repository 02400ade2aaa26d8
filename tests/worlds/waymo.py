"""Drives as Waymo v2 Parquet components, with range images whose every pixel has the pose it was measured from.

The moving vehicle is seen by three sensors: a TOP LiDAR that turns once in a tenth of a second, a short-range LiDAR
at the front that measures at once, and the front camera. The rest of the world stands still within a frame.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core.synthetic.calibration import rotation
from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.lidar import MAX_RANGE
from simipu_core.synthetic.materials import look_of
from simipu_core.synthetic.raycast import NONE, cast, full_windows, surface
from simipu_core.synthetic.render import Lens, render_image
from simipu_core.synthetic.scene import Floats, Ints, Material, Scene
from simipu_core.synthetic.street import FRAME_SECONDS, SENSOR_HEIGHT, Street

TOP, FRONT = 1, 2
_CAMERA_FRONT = 1
_IMAGE_DELAY = 0.052
"""Seconds from a frame's time to its front image, as the real front camera has it."""
_SECTORS = 40
"""Parts of a turn within which the vehicle is taken to stand still."""
_EPOCH_US = 1_550_000_000_000_000
_FRAMES_A_GROUP = 4
_READOUT = 0.0465
_SHUTTER = 0.0026

_TRANSFORM = pa.list_(pa.float64(), 16)
_SEGMENT = [("key.segment_context_name", pa.string())]
_FRAME = [*_SEGMENT, ("key.frame_timestamp_micros", pa.int64())]


def _range_image(column: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{column}.values", pa.list_(pa.float32())), (f"{column}.shape", pa.list_(pa.int32(), 3))]


SCHEMAS = {
    "camera_image": pa.schema(
        [
            *_FRAME,
            ("key.camera_name", pa.int8()),
            ("[CameraImageComponent].image", pa.binary()),
            ("[CameraImageComponent].pose.transform", _TRANSFORM),
            *((f"[CameraImageComponent].velocity.linear_velocity.{axis}", pa.float32()) for axis in "xyz"),
            *((f"[CameraImageComponent].velocity.angular_velocity.{axis}", pa.float64()) for axis in "xyz"),
            ("[CameraImageComponent].pose_timestamp", pa.float64()),
            ("[CameraImageComponent].rolling_shutter_params.shutter", pa.float64()),
            ("[CameraImageComponent].rolling_shutter_params.camera_trigger_time", pa.float64()),
            ("[CameraImageComponent].rolling_shutter_params.camera_readout_done_time", pa.float64()),
        ]
    ),
    "camera_calibration": pa.schema(
        [
            *_SEGMENT,
            ("key.camera_name", pa.int8()),
            *(
                (f"[CameraCalibrationComponent].intrinsic.{name}", pa.float64())
                for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
            ),
            ("[CameraCalibrationComponent].extrinsic.transform", _TRANSFORM),
            ("[CameraCalibrationComponent].width", pa.int32()),
            ("[CameraCalibrationComponent].height", pa.int32()),
            ("[CameraCalibrationComponent].rolling_shutter_direction", pa.int8()),
        ]
    ),
    "lidar": pa.schema(
        [
            *_FRAME,
            ("key.laser_name", pa.int8()),
            *_range_image("[LiDARComponent].range_image_return1"),
            *_range_image("[LiDARComponent].range_image_return2"),
        ]
    ),
    "lidar_calibration": pa.schema(
        [
            *_SEGMENT,
            ("key.laser_name", pa.int8()),
            ("[LiDARCalibrationComponent].extrinsic.transform", _TRANSFORM),
            ("[LiDARCalibrationComponent].beam_inclination.min", pa.float64()),
            ("[LiDARCalibrationComponent].beam_inclination.max", pa.float64()),
            ("[LiDARCalibrationComponent].beam_inclination.values", pa.list_(pa.float64())),
        ]
    ),
    "lidar_pose": pa.schema(
        [*_FRAME, ("key.laser_name", pa.int8()), *_range_image("[LiDARPoseComponent].range_image_return1")]
    ),
    "lidar_camera_projection": pa.schema(
        [
            *_FRAME,
            ("key.laser_name", pa.int8()),
            *(
                (f"[LiDARCameraProjectionComponent].range_image_return{number}.{part}", kind)
                for number in (1, 2)
                for part, kind in (("values", pa.list_(pa.int32())), ("shape", pa.list_(pa.int32(), 3)))
            ),
        ]
    ),
    "vehicle_pose": pa.schema([*_FRAME, ("[VehiclePoseComponent].world_from_vehicle.transform", _TRANSFORM)]),
}
"""Columns of the components, in the order and with the types of the published definitions."""


@dataclass(frozen=True)
class Lidar:
    """One of the vehicle's LiDARs."""

    number: int
    extrinsic: Floats
    """(4, 4) sensor frame to vehicle frame, metres."""
    elevations: Floats
    """(H,) angle of each row of the range image, top first, radians."""
    width: int
    """Columns of the range image."""
    limits: tuple[float, float]
    """Lowest and highest edge of the beams, radians."""
    is_uniform: bool
    """Whether the beams divide the limits evenly, so that they are not listed."""

    def rays(self) -> Floats:
        """Directions of the pixels in the sensor frame, (3, H, W); the middle column looks along the vehicle's x."""
        heading = np.arctan2(self.extrinsic[1, 0], self.extrinsic[0, 0])
        firing = (np.arange(self.width) + 0.5) / self.width
        azimuth = (np.pi - heading - 2 * np.pi * firing)[None, :]
        up = self.elevations[:, None]
        level = np.cos(up)
        return np.stack(
            (np.cos(azimuth) * level, np.sin(azimuth) * level, np.broadcast_to(np.sin(up), (up.size, self.width)))
        )


def lidars(num_rays: int) -> tuple[Lidar, Lidar]:
    """The TOP LiDAR with so many rays a turn over 64 beams, and a front LiDAR of the real one's proportions."""
    columns = max(8, round(num_rays / 64))
    share = np.linspace(0, 1, 64)
    top_limits, front_limits = (-0.312, 0.0455), (-np.pi / 2, np.pi / 6)
    beams = 0.044 - 0.35 * (0.5 * share + 0.5 * share**2)
    rows = max(8, columns * 200 // 2650)
    steps = (front_limits[1] - front_limits[0]) / rows
    uniform = front_limits[1] - (np.arange(rows) + 0.5) * steps
    return (
        Lidar(TOP, _placed(0.004, -0.003, 2.58, (1.43, 0.0, 2.184)), beams, columns, top_limits, is_uniform=False),
        Lidar(
            FRONT,
            _placed(-0.003, 0.02, -0.005, (4.07, 0.0, 0.689)),
            uniform,
            max(16, columns * 600 // 2650),
            front_limits,
            is_uniform=True,
        ),
    )


def front_camera(size: tuple[int, int]) -> Camera:
    """The front camera on the vehicle, its intrinsics scaled from 1,920 columns to `size` (height, width)."""
    height, width = size
    focal = 2055.0 * width / 1920
    intrinsics = np.array([[focal, 0, 0.495 * width], [0, focal, 0.497 * height], [0, 0, 1]])
    axes = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    return Camera(intrinsics, axes @ np.linalg.inv(_camera_to_vehicle()), size)


def vehicle_pose(street: Street, time: float) -> Floats:
    """(4, 4) vehicle frame, whose origin is on the road, to world; `time` in seconds."""
    ground = np.eye(4)
    ground[2, 3] = -SENSOR_HEIGHT
    return np.asarray(street.pose(time / FRAME_SECONDS) @ ground)


def segment_name(index: int) -> str:
    """Name of a segment, made like the real ones."""
    return f"{10_000_000_000_000_000 + index}_1000_000_1020_000"


def frame_time_us(index: int, frame: int) -> int:
    """A frame's timestamp, microseconds since 1970."""
    return _EPOCH_US + index * 60_000_000 + frame * round(FRAME_SECONDS * 1_000_000)


def write_segment(
    folder: Path,
    index: int,
    street: Street,
    lens: Lens,
    rng: np.random.Generator,
    *,
    frames: int,
    image_size: tuple[int, int],
    num_rays: int,
) -> None:
    """Drive along a street and write all components of one segment.

    Args:
        folder: holds a folder for each component of `SCHEMAS`.
        index: number of the segment.
        street: the world.
        lens: of the camera.
        rng: source of the sensors' noise; ranges have none.
        frames: number of frames.
        image_size: height and width, pixels.
        num_rays: of the TOP LiDAR.
    """
    segment, camera, sensors = segment_name(index), front_camera(image_size), lidars(num_rays)
    key = {"key.segment_context_name": segment}
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(folder / name / f"{segment}.parquet", schema))
            for name, schema in SCHEMAS.items()
        }

        def write(name: str, rows: list[dict[str, Any]]) -> None:
            writers[name].write_table(pa.Table.from_pylist([key | row for row in rows], SCHEMAS[name]))

        write("camera_calibration", [_camera_calibration(camera)])
        write("lidar_calibration", [_lidar_calibration(lidar) for lidar in sensors])
        waiting: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS if "calibration" not in name}
        for frame in range(frames):
            stamp = {"key.frame_timestamp_micros": frame_time_us(index, frame)}
            for name, row in _frame(street, frame, camera, sensors, lens, rng, stamp):
                waiting[name].append(stamp | row)
            if (frame + 1) % _FRAMES_A_GROUP == 0 or frame + 1 == frames:
                for name, rows in waiting.items():
                    write(name, rows)
                    rows.clear()


def _frame(
    street: Street,
    frame: int,
    camera: Camera,
    sensors: tuple[Lidar, Lidar],
    lens: Lens,
    rng: np.random.Generator,
    stamp: dict[str, int],
) -> Iterator[tuple[str, dict[str, Any]]]:
    scene, _ = street.at(frame)
    time = frame * FRAME_SECONDS
    yield "vehicle_pose", {"[VehiclePoseComponent].world_from_vehicle.transform": vehicle_pose(street, time).ravel()}

    seen_from = vehicle_pose(street, time + _IMAGE_DELAY)
    image = render_image(scene, camera, seen_from, lens, rng)
    taken = stamp["key.frame_timestamp_micros"] / 1e6 + _IMAGE_DELAY
    velocity = (vehicle_pose(street, time + FRAME_SECONDS) - vehicle_pose(street, time))[:3, 3] / FRAME_SECONDS
    component = "[CameraImageComponent]"
    yield (
        "camera_image",
        {
            "key.camera_name": _CAMERA_FRONT,
            f"{component}.image": _jpeg(image),
            f"{component}.pose.transform": seen_from.ravel(),
            **dict(zip((f"{component}.velocity.linear_velocity.{axis}" for axis in "xyz"), velocity, strict=True)),
            **{f"{component}.velocity.angular_velocity.{axis}": 0.0 for axis in "xyz"},
            f"{component}.pose_timestamp": taken,
            f"{component}.rolling_shutter_params.shutter": _SHUTTER,
            f"{component}.rolling_shutter_params.camera_trigger_time": taken - _READOUT / 2,
            f"{component}.rolling_shutter_params.camera_readout_done_time": taken + _READOUT / 2,
        },
    )
    for lidar in sensors:
        row: dict[str, Any] = {"key.laser_name": lidar.number}
        first, second, poses = _scan(scene, street, time, lidar, rng)
        seen = {"key.laser_name": lidar.number}
        for number, returned in ((1, first), (2, second)):
            row |= _flat(f"[LiDARComponent].range_image_return{number}", returned)
            pixels = _projected(returned, street, time, lidar, camera, seen_from)
            seen |= _flat(f"[LiDARCameraProjectionComponent].range_image_return{number}", pixels)
        yield "lidar", row
        yield "lidar_camera_projection", seen
        if lidar.number == TOP:
            yield "lidar_pose", {"key.laser_name": TOP, **_flat("[LiDARPoseComponent].range_image_return1", poses)}


def _scan(
    scene: Scene, street: Street, time: float, lidar: Lidar, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Range images of the first and second return, (H, W, 4), and pose of the vehicle at each pixel, (H, W, 6).

    A pulse that meets foliage has a second return from what stands behind it.
    """
    rays = lidar.rays()
    height, width = rays.shape[1:]
    first, second = np.full((height, width, 4), -1, np.float32), np.full((height, width, 4), -1, np.float32)
    poses = np.empty((height, width, 6), np.float32)
    solid_things = scene.solids.select(scene.solids.material != Material.FOLIAGE)
    behind = Scene(solid_things, scene.light, scene.ground)
    for columns, pose in _sectors(street, time, lidar):
        poses[:, columns] = _euler(pose)
        to_world = pose @ lidar.extrinsic
        directions = np.einsum("ij,jkl->ikl", to_world[:3, :3], rays[:, :, columns]).astype(np.float32)
        first[:, columns], leafy = _measure(scene, to_world[:3, 3], directions, rng)
        if leafy.any():
            through, _ = _measure(behind, to_world[:3, 3], directions, rng)
            second[:, columns] = np.where(leafy[..., None], through, -1)
    return first, second, poses


def _sectors(street: Street, time: float, lidar: Lidar) -> Iterator[tuple[Ints, Floats]]:
    """Columns that a LiDAR fires together, and the vehicle's pose (4, 4) at that moment."""
    columns = np.arange(lidar.width)
    for together in np.array_split(columns, min(_SECTORS, lidar.width)) if lidar.number == TOP else [columns]:
        moment = FRAME_SECONDS * together.mean() / lidar.width if lidar.number == TOP else 0.0
        yield together, vehicle_pose(street, time + moment)


def _projected(
    image: Floats, street: Street, time: float, lidar: Lidar, camera: Camera, seen_from: Floats
) -> NDArray[np.int32]:
    """Camera, column and row on which each return of a range image falls, twice, (H, W, 6); 0 where on none."""
    rays, result = lidar.rays(), np.zeros((*image.shape[:2], 6), np.int32)
    height, width = camera.size
    for columns, pose in _sectors(street, time, lidar):
        to_camera = camera.lidar_to_camera @ np.linalg.inv(seen_from) @ pose @ lidar.extrinsic
        points = rays[:, :, columns] * image[:, columns, 0]
        x, y, depth = np.einsum("ij,jhw->ihw", to_camera[:3, :3], points) + to_camera[:3, 3, None, None]
        (f_u, _, c_u), (_, f_v, c_v), _ = camera.intrinsics.tolist()
        # Waymo counts from the image's edge
        u, v = f_u * x / depth + c_u + 0.5, f_v * y / depth + c_v + 0.5
        row, column = np.nonzero(
            (image[:, columns, 0] > 0) & (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        )
        found = np.stack((np.full(row.size, _CAMERA_FRONT), u[row, column], v[row, column]), axis=1)
        result[row, columns[column], :3] = found.astype(np.int32)
    return result


def _measure(scene: Scene, origin: Floats, directions: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Range image (H, W, 4) of rays (3, H, W), and which pixels meet foliage, (H, W)."""
    image = np.full((*directions.shape[1:], 4), -1, np.float32)
    hits = cast(scene.solids, origin, directions, full_windows(len(scene.solids), *directions.shape[1:]))
    row, column = np.nonzero((hits.solid != NONE) & (hits.distance < MAX_RANGE))
    solid, distance, toward = hits.solid[row, column], hits.distance[row, column], directions[:, row, column]
    at = surface(scene.solids, solid, origin[:, None].astype(np.float32) + toward * distance)
    reflectance = look_of(scene, at, np.zeros_like(distance)).reflectance
    facing = np.abs((toward * at.normal).sum(axis=0))
    seen = reflectance * facing**0.25 * (1 + 0.08 * rng.standard_normal(distance.size))
    image[row, column, 0] = distance
    image[row, column, 1] = np.arctanh(np.clip(seen, 0, 0.99))
    image[row, column, 2] = 0
    leafy = np.zeros(directions.shape[1:], bool)
    leafy[row, column] = scene.solids.material[solid] == Material.FOLIAGE
    return image, leafy


def _camera_calibration(camera: Camera) -> dict[str, Any]:
    component = "[CameraCalibrationComponent]"
    (f_u, _, c_u), (_, f_v, c_v), _ = camera.intrinsics.tolist()
    intrinsic = {"f_u": f_u, "f_v": f_v, "c_u": c_u + 0.5, "c_v": c_v + 0.5}  # Waymo counts from the image's edge
    return {
        "key.camera_name": _CAMERA_FRONT,
        **{f"{component}.intrinsic.{name}": value for name, value in intrinsic.items()},
        **{f"{component}.intrinsic.{name}": 0.0 for name in ("k1", "k2", "p1", "p2", "k3")},
        f"{component}.extrinsic.transform": _camera_to_vehicle().ravel(),
        f"{component}.width": camera.size[1],
        f"{component}.height": camera.size[0],
        f"{component}.rolling_shutter_direction": 2,
    }


def _lidar_calibration(lidar: Lidar) -> dict[str, Any]:
    component = "[LiDARCalibrationComponent]"
    return {
        "key.laser_name": lidar.number,
        f"{component}.extrinsic.transform": lidar.extrinsic.ravel(),
        f"{component}.beam_inclination.min": lidar.limits[0],
        f"{component}.beam_inclination.max": lidar.limits[1],
        f"{component}.beam_inclination.values": None if lidar.is_uniform else lidar.elevations[::-1],
    }


def _camera_to_vehicle() -> Floats:
    """Camera frame in Waymo's axes (x forward, y left, z up) to vehicle frame."""
    return _placed(-0.0088, 0.002, 0.0028, (1.539, -0.024, 2.115))


def _placed(roll: float, pitch: float, yaw: float, at: tuple[float, float, float]) -> Floats:
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation(roll, pitch, yaw), at
    return transform


def _euler(pose: Floats) -> Floats:
    """Roll, pitch, yaw (yaw applied last) and x, y, z of a pose, (6,)."""
    turn = pose[:3, :3]
    angles = (np.arctan2(turn[2, 1], turn[2, 2]), -np.arcsin(turn[2, 0]), np.arctan2(turn[1, 0], turn[0, 0]))
    return np.array([*angles, *pose[:3, 3]])


def _flat(column: str, image: Floats | Ints) -> dict[str, Any]:
    return {f"{column}.values": image.ravel(), f"{column}.shape": list(image.shape)}


def _jpeg(image: Any) -> bytes:
    done, data = cv2.imencode(".jpg", image[..., ::-1])
    if not done:
        raise OSError("cannot encode a camera image")
    return bytes(data)
