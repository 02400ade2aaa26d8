"""Drives as nuScenes v1.0: the tables, and six images and a LIDAR_TOP scan a keyframe.

The vehicle moves between the scan and each image, as real triggers are some milliseconds apart; the rest of the world
stands still within a keyframe. Ranges have no noise. Tables of annotations and maps are there, and empty.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from simipu_core.synthetic import writers
from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.lidar import BEAM_ELEVATIONS, scan
from simipu_core.synthetic.render import Lens, render_image
from simipu_core.synthetic.scene import Floats
from simipu_core.synthetic.street import FRAME_SECONDS, Street
from tests.worlds.waymo import vehicle_pose

VERSION = "v1.0-mini"
STEPS = 5
"""Frames of a street from keyframe to keyframe, half a second."""
LIDAR = "LIDAR_TOP"
_LOG = "n000-2000-01-01-12-00-00+0000"
_EPOCH_US = 946_728_000_000_000
_EMPTY = ("category", "attribute", "visibility", "instance", "sample_annotation")


@dataclass(frozen=True)
class Mount:
    """A camera on the vehicle, about as on the real one."""

    channel: str
    delay: float
    """Seconds from the scan to the image."""
    heading: float
    """Degrees to the left of the vehicle's x."""
    at: tuple[float, float, float]
    """Metres in the vehicle frame, whose origin is on the road."""
    focal: float
    """Of an image 1,600 pixels wide."""

    def to_vehicle(self) -> Floats:
        """(4, 4) camera frame (x right, y down, z forward) to vehicle frame, metres."""
        transform = np.eye(4)
        axes = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
        transform[:3, :3] = Rotation.from_euler("zyx", [self.heading, 0.4, -0.3], degrees=True).as_matrix() @ axes
        transform[:3, 3] = self.at
        return transform

    def intrinsics(self, size: tuple[int, int]) -> Floats:
        """(3, 3) for an image of `size` (height, width), pixels."""
        height, width = size
        focal = self.focal * width / 1600
        return np.array([[focal, 0, 0.51 * width], [0, focal, 0.54 * height], [0, 0, 1]])


MOUNTS = (
    Mount("CAM_FRONT", -0.0355, 0.3, (1.70, 0.02, 1.51), 1266.4),
    Mount("CAM_FRONT_RIGHT", -0.0276, -56.4, (1.55, -0.49, 1.50), 1260.8),
    Mount("CAM_FRONT_LEFT", -0.0431, 55.2, (1.52, 0.49, 1.51), 1272.6),
    Mount("CAM_BACK", -0.0104, 179.9, (0.03, 0.0, 1.58), 809.2),
    Mount("CAM_BACK_LEFT", -0.0005, 108.6, (1.04, 0.48, 1.59), 1256.7),
    Mount("CAM_BACK_RIGHT", -0.0201, -110.3, (1.01, -0.48, 1.56), 1259.5),
)


def lidar_to_vehicle() -> Floats:
    """(4, 4) of LIDAR_TOP, whose x points to the right and whose y points ahead."""
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("zyx", [-89.9, 0.3, -1.4], degrees=True).as_matrix()
    transform[:3, 3] = 0.94, 0.0, 1.84
    return transform


def scene_name(index: int) -> str:
    """Name of a scene, made like the real ones."""
    return f"scene-{index + 1:04d}"


def time_us(index: int, frame: int, delay: float = 0.0) -> int:
    """Microseconds since 1970 of a keyframe's scan, or so many seconds after it."""
    return _EPOCH_US + index * 60_000_000 + round((frame * STEPS * FRAME_SECONDS + delay) * 1_000_000)


def pose(street: Street, frame: int, delay: float = 0.0) -> Floats:
    """(4, 4) vehicle frame to world at a keyframe's scan, or so many seconds after it."""
    return vehicle_pose(street, frame * STEPS * FRAME_SECONDS + delay)


def file_name(channel: str, index: int, frame: int, delay: float = 0.0) -> str:
    """Path of a sample below the data set's folder."""
    ending = "pcd.bin" if channel == LIDAR else "jpg"
    return f"samples/{channel}/{_LOG}__{channel}__{time_us(index, frame, delay)}.{ending}"


def camera(mount: Mount, size: tuple[int, int]) -> Camera:
    """A camera on the vehicle frame."""
    return Camera(mount.intrinsics(size), np.linalg.inv(mount.to_vehicle()), size)


def write_keyframe(
    folder: Path,
    index: int,
    frame: int,
    street: Street,
    lens: Lens,
    rng: np.random.Generator,
    *,
    image_size: tuple[int, int],
    num_rays: int,
) -> None:
    """Write the seven samples of a keyframe.

    Args:
        folder: the data set's folder; holds a folder for each channel.
        index: number of the scene.
        frame: number of the keyframe in it.
        street: the world.
        lens: of all cameras.
        rng: source of the images' noise.
        image_size: height and width, pixels.
        num_rays: of the LiDAR, twice as many as are written: every second of its 64 beams is.
    """
    world, _ = street.at(frame * STEPS)
    measured = scan(world, pose(street, frame) @ lidar_to_vehicle(), num_rays, rng, noisy=False)
    kept = measured.beam % 2 == 1
    ring = (BEAM_ELEVATIONS.size - 1 - measured.beam[kept]) // 2  # 0 is the lowest
    points = measured.points[kept] * (1, 1, 1, 255)
    points[:, 3] = np.rint(points[:, 3])
    writers.write_scan(folder / file_name(LIDAR, index, frame), np.column_stack((points, ring)))
    for mount in MOUNTS:
        image = render_image(world, camera(mount, image_size), pose(street, frame, mount.delay), lens, rng)
        writers.write_image(folder / file_name(mount.channel, index, frame, mount.delay), image)


def write_tables(folder: Path, streets: list[Street], frames: int, image_size: tuple[int, int]) -> None:
    """Write the tables of all scenes.

    Args:
        folder: the data set's folder.
        streets: one a scene.
        frames: keyframes of each.
        image_size: height and width, pixels.
    """
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in _EMPTY}
    channels = [mount.channel for mount in MOUNTS] + [LIDAR]
    tables["sensor"] = [
        {"token": _token("sensor", name), "channel": name, "modality": "lidar" if name == LIDAR else "camera"}
        for name in channels
    ]
    for name in ("log", "map", "scene", "calibrated_sensor", "sample", "sample_data", "ego_pose"):
        tables[name] = []
    for index, street in enumerate(streets):
        for name, row in _scene(index, street, frames, image_size):
            tables[name].append(row)
    (folder / VERSION).mkdir(parents=True)
    for channel in channels:
        (folder / "samples" / channel).mkdir(parents=True)
    for name, rows in tables.items():
        (folder / VERSION / f"{name}.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def _scene(
    index: int, street: Street, frames: int, image_size: tuple[int, int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Table and record of everything that belongs to a scene."""
    samples = [_token("sample", index, frame) for frame in range(frames)]
    log = _token("log", index)
    yield (
        "log",
        {"token": log, "logfile": _LOG, "vehicle": "n000", "date_captured": "2000-01-01", "location": "nowhere"},
    )
    yield "map", {"token": _token("map", index), "log_tokens": [log], "category": "semantic_prior", "filename": ""}
    yield (
        "scene",
        {
            "token": _token("scene", index),
            "log_token": log,
            "nbr_samples": frames,
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": scene_name(index),
            "description": "rendered",
        },
    )
    for frame, sample in enumerate(samples):
        around = {
            "prev": samples[frame - 1] if frame else "",
            "next": samples[frame + 1] if sample != samples[-1] else "",
        }
        scene = {"scene_token": _token("scene", index)}
        yield "sample", {"token": sample, "timestamp": time_us(index, frame), **around, **scene}
    sensors = [(mount.channel, mount.delay, mount.to_vehicle(), mount.intrinsics(image_size)) for mount in MOUNTS]
    for channel, delay, to_vehicle, intrinsics in [*sensors, (LIDAR, 0.0, lidar_to_vehicle(), None)]:
        calibrated = _token("calibrated_sensor", index, channel)
        yield (
            "calibrated_sensor",
            {
                "token": calibrated,
                "sensor_token": _token("sensor", channel),
                **_placed(to_vehicle),
                "camera_intrinsic": [] if intrinsics is None else intrinsics.tolist(),
            },
        )
        data = [_token("sample_data", index, channel, frame) for frame in range(frames)]
        for frame, token in enumerate(data):
            yield (
                "ego_pose",
                {"token": token, "timestamp": time_us(index, frame, delay), **_placed(pose(street, frame, delay))},
            )
            yield (
                "sample_data",
                {
                    "token": token,
                    "sample_token": samples[frame],
                    "ego_pose_token": token,
                    "calibrated_sensor_token": calibrated,
                    "timestamp": time_us(index, frame, delay),
                    "fileformat": "pcd" if channel == LIDAR else "jpg",
                    "is_key_frame": True,
                    "height": 0 if channel == LIDAR else image_size[0],
                    "width": 0 if channel == LIDAR else image_size[1],
                    "filename": file_name(channel, index, frame, delay),
                    "prev": data[frame - 1] if frame else "",
                    "next": data[frame + 1] if frame + 1 < frames else "",
                },
            )


def _token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _placed(transform: Floats) -> dict[str, list[float]]:
    """Translation, metres, and rotation, a quaternion w, x, y, z."""
    x, y, z, w = Rotation.from_matrix(transform[:3, :3]).as_quat().tolist()
    return {"translation": transform[:3, 3].tolist(), "rotation": [w, x, y, z]}
