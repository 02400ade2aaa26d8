"""The real calibrations, poses and images of a v1 record, put into v2 components as their definitions say."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simipu_core.data.catalogue import examine
from simipu_core.data.formats import waymo_segments as waymo
from simipu_core.data.frames import Frame
from simipu_core.data.sources.waymo import Waymo
from simipu_core.geometry.cameras import project
from tests.sources import any_source
from tests.worlds.waymo import SCHEMAS

pytestmark = pytest.mark.real_data
RANGE = 10.0
SHAPES = {1: (64, 2650), 2: (200, 600), 3: (200, 600), 4: (200, 600), 5: (200, 600)}

Message = dict[int, list[Any]]


def message(data: bytes) -> Message:
    """Fields of a protocol buffer by number, undecoded."""
    fields: Message = defaultdict(list)
    position = 0

    def varint() -> int:
        nonlocal position
        result, shift = 0, 0
        while True:
            byte, position = data[position], position + 1
            result |= (byte & 127) << shift
            if byte < 128:
                return result
            shift += 7

    while position < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            fields[number].append(varint())
        else:
            length = {1: 8, 5: 4}.get(kind) or varint()
            fields[number].append(data[position : position + length])
            position += length
    return fields


def doubles(values: list[bytes]) -> list[float]:
    return [float(value) for value in np.frombuffer(b"".join(values), "<f8")]


@pytest.fixture(scope="module")
def record(real_data: Path) -> Message:
    data = (real_data / "waymo/pvps_data_one_frame.tfrecord").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return message(data[12 : 12 + length])


@pytest.fixture(scope="module")
def root(record: Message, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Components of one frame; the record has no range images, so every pixel is `RANGE` metres away."""
    folder = tmp_path_factory.mktemp("real") / "waymo/training"
    context = message(record[1][0])
    segment = context[1][0].decode()
    frame = {"key.segment_context_name": segment, "key.frame_timestamp_micros": record[2][0]}
    for name, rows in _components(record, context).items():
        (folder / name).mkdir(parents=True)
        keys = {key: value for key, value in frame.items() if key in SCHEMAS[name].names}
        table = pa.Table.from_pylist([keys | row for row in rows], SCHEMAS[name])
        pq.write_table(table, folder / name / f"{segment}.parquet")
    return folder.parent.parent


def _components(record: Message, context: Message) -> dict[str, list[dict[str, Any]]]:
    pose = doubles(message(record[3][0])[1])
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    rows["vehicle_pose"] = [{"[VehiclePoseComponent].world_from_vehicle.transform": pose}]
    for image in map(message, record[4]):
        rows["camera_image"].append(
            {
                "key.camera_name": image[1][0],
                "[CameraImageComponent].image": image[2][0],
                "[CameraImageComponent].pose.transform": doubles(message(image[3][0])[1]),
                "[CameraImageComponent].pose_timestamp": doubles(image[5])[0],
            }
        )
    for camera in map(message, context[2]):
        names = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
        component = "[CameraCalibrationComponent]"
        values = zip((f"{component}.intrinsic.{name}" for name in names), doubles(camera[2]), strict=True)
        extrinsic = doubles(message(camera[3][0])[1])
        row = {"key.camera_name": camera[1][0], f"{component}.extrinsic.transform": extrinsic, **dict(values)}
        rows["camera_calibration"].append(row)
    for lidar in map(message, context[3]):
        component, number = "[LiDARCalibrationComponent]", lidar[1][0]
        beams = doubles(lidar[2])
        rows["lidar_calibration"].append(
            {
                "key.laser_name": number,
                f"{component}.extrinsic.transform": doubles(message(lidar[5][0])[1]),
                f"{component}.beam_inclination.min": doubles(lidar[3])[0],
                f"{component}.beam_inclination.max": doubles(lidar[4])[0],
                f"{component}.beam_inclination.values": beams or None,
            }
        )
        returned = {"key.laser_name": number}
        for column, pixel in zip(("return1", "return2"), ((RANGE, 0.5, 0, -1), (-1, -1, -1, -1)), strict=True):
            ranges = np.full((*SHAPES[number], 4), pixel, np.float32)
            component = f"[LiDARComponent].range_image_{column}"
            returned |= {f"{component}.values": ranges.ravel(), f"{component}.shape": ranges.shape}
        rows["lidar"].append(returned)
    x, y, z = np.array(pose).reshape(4, 4)[:3, 3]
    turn = np.array(pose).reshape(4, 4)[:3, :3]
    angles = (np.arctan2(turn[2, 1], turn[2, 2]), -np.arcsin(turn[2, 0]), np.arctan2(turn[1, 0], turn[0, 0]))
    poses = np.broadcast_to(np.array([*angles, x, y, z], np.float32), (*SHAPES[1], 6))
    column = "[LiDARPoseComponent].range_image_return1"
    rows["lidar_pose"] = [{"key.laser_name": 1, f"{column}.values": poses.ravel(), f"{column}.shape": poses.shape}]
    return rows


def frame_of(root: Path, **choice: Any) -> Frame:
    (frame,) = any_source(kind="waymo", **choice).list_frames(root)
    assert isinstance(frame, Frame)
    return frame


def cameras(record: Message) -> Iterator[tuple[str, Message]]:
    for camera in map(message, message(record[1][0])[2]):
        yield waymo.CAMERAS[camera[1][0] - 1], camera


def test_all_five_real_cameras_look_where_their_extrinsics_say(root: Path, record: Message) -> None:
    headings = {}
    for name, camera in cameras(record):
        frame = frame_of(root, camera=name)
        row = examine(root, frame)
        assert isinstance(row, dict)
        assert (row["width"], row["height"]) == (camera[4][0], camera[5][0])
        extrinsic = np.reshape(doubles(message(camera[3][0])[1]), (4, 4))
        headings[name] = np.rad2deg(np.arctan2(extrinsic[1, 0], extrinsic[0, 0]))
        ahead = extrinsic @ [20, 0, 0, 1]  # Waymo's camera x looks ahead
        up_left = extrinsic @ [20, 1, 1, 1]
        assert frame.lidar_to_camera is not None
        # the vehicle's own motion until the image is in lidar_to_camera; it is some metres a second at most
        uv, depth = project(np.array([ahead[:3], up_left[:3]]), frame.lidar_to_camera, frame.intrinsics)
        f_u, f_v, c_u, c_v, *_ = doubles(camera[2])
        assert depth == pytest.approx(20, abs=2)
        np.testing.assert_allclose(uv[0], [c_u, c_v], atol=0.01 * f_u)
        np.testing.assert_allclose(uv[0] - uv[1], [f_u / 20, f_v / 20], rtol=0.15)
    assert headings == pytest.approx(
        {"front": 0, "front_left": 45, "front_right": -45, "side_left": 90, "side_right": -90}, abs=2
    )


def test_all_five_real_lidars_measure_from_where_they_are(root: Path, record: Message) -> None:
    for lidar in map(message, message(record[1][0])[3]):
        number = lidar[1][0]
        frame = frame_of(root, lidars=[waymo.LIDARS[number - 1]])
        assert frame.points is not None
        extrinsic = np.reshape(doubles(message(lidar[5][0])[1]), (4, 4))
        points = Waymo.read_scan(frame.points).points.reshape(*SHAPES[number], 4)[..., :3].astype(float)
        sensor = (points - extrinsic[:3, 3]) @ extrinsic[:3, :3]
        # the pose per pixel is float32 kilometres from the origin, hence millimetres
        np.testing.assert_allclose(np.linalg.norm(sensor, axis=2), RANGE, atol=0.005)
        up = np.arcsin(sensor[..., 2] / RANGE).mean(axis=1)
        beams, low, high = doubles(lidar[2]), doubles(lidar[3])[0], doubles(lidar[4])[0]
        assert (len(beams) == 64) == (number == 1)
        if beams:
            np.testing.assert_allclose(up, beams[::-1], atol=1e-3)
        else:
            step = (high - low) / len(up)
            np.testing.assert_allclose(up, high - step * (np.arange(len(up)) + 0.5), atol=1e-4)
        middle = points[len(points) // 2, SHAPES[number][1] // 2] - extrinsic[:3, 3]
        assert abs(np.arctan2(middle[1], middle[0])) < 0.05
    assert len(Waymo.read_scan(frame_of(root).points or Path()).points) == sum(a * b for a, b in SHAPES.values())
