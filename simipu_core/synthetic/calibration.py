"""Calibration files in KITTI's two layouts, and the camera that a reader of them sees."""

import numpy as np

from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.scene import Floats

_KITTI_SIZE = (375, 1242)
_FOCAL, _CENTRE = 721.5377, (609.5593, 172.854)
_SHIFTS = (
    (0.0, 0.0, 0.0),
    (-387.5744, 0.0, 0.0),
    (44.85728, 0.2163791, 0.002745884),
    (-339.5242, 2.199936, 0.002729905),
)
_CAMERA_AXES = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


def rotation(x: float, y: float, z: float) -> Floats:
    """(3, 3) rotation about x, then y, then z, radians."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    return np.asarray(
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )


_RECTIFY = rotation(0.004, -0.0075, -0.0098)
_VELO_ROTATION = rotation(-0.0146, -0.0006, -0.0075) @ _CAMERA_AXES
_VELO_SHIFT = np.array([-0.004, -0.076, -0.272])
_IMU_ROTATION = rotation(0.0148, 0.002, -0.0008)
_IMU_SHIFT = np.array([-0.81, 0.32, -0.8])


def projections(size: tuple[int, int]) -> list[Floats]:
    """The four cameras' rectified projections, (3, 4) each, scaled from KITTI's 375×1242 to `size` (h, w)."""
    scale = np.diag([size[1] / _KITTI_SIZE[1], size[0] / _KITTI_SIZE[0], 1.0])
    intrinsics = np.array([[_FOCAL, 0, _CENTRE[0]], [0, _FOCAL, _CENTRE[1]], [0, 0, 1]])
    return [scale @ np.column_stack((intrinsics, shift)) for shift in _SHIFTS]


def object_calibration(size: tuple[int, int]) -> str:
    """Text of a `calib/%06d.txt` of the KITTI object layout."""
    lines = {f"P{index}": matrix for index, matrix in enumerate(projections(size))}
    lines["R0_rect"] = _RECTIFY
    lines["Tr_velo_to_cam"] = np.column_stack((_VELO_ROTATION, _VELO_SHIFT))
    lines["Tr_imu_to_velo"] = np.column_stack((_IMU_ROTATION, _IMU_SHIFT))
    return _text(lines, 12) + "\n"


def raw_calibration(size: tuple[int, int]) -> dict[str, str]:
    """Texts of the three calibration files of a KITTI raw date, by file name."""
    cameras: dict[str, Floats] = {"corner_dist": np.array([0.0995])}
    extent = np.array(size[::-1], float)
    for index, projection in enumerate(projections(size)):
        cameras |= {
            f"S_{index:02d}": extent,
            f"K_{index:02d}": projection[:, :3],
            f"D_{index:02d}": np.zeros(5),
            f"R_{index:02d}": np.eye(3),
            f"T_{index:02d}": np.linalg.solve(projection[:, :3], projection[:, 3]),
            f"S_rect_{index:02d}": extent,
            f"R_rect_{index:02d}": _RECTIFY if index == 0 else np.eye(3),
            f"P_rect_{index:02d}": projection,
        }
    made = "calib_time: 01-Jan-2000 12:00:00\n"
    velo = {"R": _VELO_ROTATION, "T": _VELO_SHIFT, "delta_f": np.zeros(2), "delta_c": np.zeros(2)}
    return {
        "calib_cam_to_cam.txt": made + _text(cameras, 6),
        "calib_velo_to_cam.txt": made + _text(velo, 6),
        "calib_imu_to_velo.txt": made + _text({"R": _IMU_ROTATION, "T": _IMU_SHIFT}, 6),
    }


def object_camera(size: tuple[int, int]) -> Camera:
    """Camera 2 as a reader of `object_calibration` sees it."""
    lines = parse(object_calibration(size))
    return _camera(lines["P2"], lines["R0_rect"], lines["Tr_velo_to_cam"].reshape(3, 4), size)


def raw_camera(size: tuple[int, int]) -> Camera:
    """Camera 2 as a reader of `raw_calibration` sees it."""
    texts = raw_calibration(size)
    cameras, velo = parse(texts["calib_cam_to_cam.txt"]), parse(texts["calib_velo_to_cam.txt"])
    extrinsics = np.column_stack((velo["R"].reshape(3, 3), velo["T"]))
    return _camera(cameras["P_rect_02"], cameras["R_rect_00"], extrinsics, size)


def parse(text: str) -> dict[str, Floats]:
    """Numbers of each `name: numbers` line."""
    named = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: np.array(numbers.split(), float) for name, numbers in named if name != "calib_time"}


def _camera(projection: Floats, rectify: Floats, velo_to_cam: Floats, size: tuple[int, int]) -> Camera:
    """Split P · R · T into intrinsics and one rigid transform."""
    projection = projection.reshape(3, 4)
    intrinsics = projection[:, :3]
    lidar_to_camera = np.eye(4)
    lidar_to_camera[:3] = rectify.reshape(3, 3) @ velo_to_cam
    lidar_to_camera[:3, 3] += np.linalg.solve(intrinsics, projection[:, 3])
    return Camera(intrinsics, lidar_to_camera, size)


def _text(lines: dict[str, Floats], digits: int) -> str:
    return "".join(f"{name}: {' '.join(f'{x:.{digits}e}' for x in values.ravel())}\n" for name, values in lines.items())
