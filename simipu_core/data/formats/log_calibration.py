"""``calibration.yaml`` of own logs: sensors, where they sit, and how their files are to be read."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from simipu_core.config.section import Section, Size
from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.lenses import NUM_COEFFICIENTS, Lens
from simipu_core.errors import SimipuError
from simipu_core.geometry.poses import Matrix, inverse, pose, rotation_error
from simipu_core.storage import StorageError
from simipu_core.yaml_files import read_yaml

NAME = "calibration.yaml"
PER_SECOND = {"ns": 1_000_000_000, "us": 1_000_000, "ms": 1000, "s": 1}
"""Units in which file names may count time."""
_TOLERANCE = 1e-3
_LYING, _UPRIGHT = 0.5, 0.8
"""Cosines between a camera's down and the vehicle's."""
_FARTHEST = 50.0
"""Metres between sensors of one vehicle; more is a mistaken unit."""

Row4 = tuple[float, float, float, float]
Row3 = tuple[float, float, float]


class Transform(Section):
    """A rigid motion of points, metres: `matrix`, or `translation` with one quaternion."""

    matrix: tuple[Row4, Row4, Row4, Row4] | None = None
    """4×4, row by row; the last is 0 0 0 1."""
    translation: Row3 | None = None
    """x, y, z of the first frame's origin in the second."""
    quaternion_xyzw: Row4 | None = None
    """Rotation, real part last, as in ROS."""
    quaternion_wxyz: Row4 | None = None
    """Rotation, real part first, as in Eigen's constructor and nuScenes."""

    @model_validator(mode="after")
    def _is_rigid(self) -> Self:
        quaternions = [q for q in (self.quaternion_xyzw, self.quaternion_wxyz) if q is not None]
        is_matrix = self.matrix is not None and self.translation is None and not quaternions
        if not is_matrix and not (self.matrix is None and self.translation is not None and len(quaternions) == 1):
            raise ValueError("give `matrix` alone, or `translation` with `quaternion_xyzw` or `quaternion_wxyz`")
        if quaternions and abs(float(np.linalg.norm(quaternions[0])) - 1) > _TOLERANCE:
            raise ValueError(f"the quaternion has length {np.linalg.norm(quaternions[0]):.4g}, not 1")
        check_rigid(self.as_matrix())
        return self

    def as_matrix(self) -> Matrix:
        """(4, 4) float64."""
        if self.matrix is not None:
            return np.array(self.matrix, np.float64)
        x, y, z, w = self.quaternion_xyzw or np.roll(self.quaternion_wxyz or (1, 0, 0, 0), -1)
        return pose(np.array(self.translation, np.float64), np.array([x, y, z, w], np.float64))

    def other_order(self) -> Matrix | None:
        """Rotation (3, 3) of the same four numbers in the other order; None of a matrix."""
        if self.quaternion_xyzw is not None:
            w, x, y, z = self.quaternion_xyzw
        elif self.quaternion_wxyz is not None:
            x, y, z, w = self.quaternion_wxyz
        else:
            return None
        return pose(np.zeros(3), np.array([x, y, z, w], np.float64))[:3, :3]


class Distortion(Section):
    """What the lens does; images are undistorted when they are packed."""

    model: Lens
    """`plumb_bob` (OpenCV's k1 k2 p1 p2 [k3]), `rational_polynomial` (k1 k2 p1 p2 k3 k4 k5 k6), or `equidistant`
    (OpenCV's fisheye, k1 k2 k3 k4)."""
    coefficients: tuple[Annotated[float, Field(ge=-1000, le=1000)], ...]

    @model_validator(mode="after")
    def _fits_the_model(self) -> Self:
        if len(self.coefficients) not in (allowed := NUM_COEFFICIENTS[self.model]):
            counts = " or ".join(map(str, allowed))
            raise ValueError(f"{self.model} takes {counts} coefficients, not {len(self.coefficients)}")
        return self


class Camera(Section):
    """One camera. Its frame: x right, y down, z along the optical axis."""

    size: Size
    """Height and width of the images, pixels."""
    fx: float | None = Field(None, gt=0)
    """Focal length in pixels; so are fy, cx and cy. Pixel (0, 0) is the centre of the top left one."""
    fy: float | None = Field(None, gt=0)
    cx: float | None = None
    cy: float | None = None
    intrinsics: tuple[Row3, Row3, Row3] | None = None
    """3×3, row by row, instead of fx, fy, cx and cy."""
    distortion: Distortion | None = None
    """Left out: images are rectified."""
    depth_scale: float | None = Field(None, gt=0)
    """Steps a metre of depth maps that are .png, of 8 to 16 bits: metres = value / depth_scale. Others hold metres."""
    invalid_depths: tuple[float, ...] = ()
    """Stored values of depth maps that are no measurement, such as 4095 for sky; 0, the largest value of 8 or 16 bits,
    negative ones, NaN and infinities never are."""
    lidar_to_camera: Transform | None = None
    """Moves points of the only LiDAR to the camera's frame."""
    camera_to_lidar: Transform | None = None
    vehicle_to_camera: Transform | None = None
    """Goes with `lidar_to_vehicle` or `vehicle_to_lidar` of each LiDAR."""
    camera_to_vehicle: Transform | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        four = (self.fx, self.fy, self.cx, self.cy)
        if (self.intrinsics is None) != (None not in four) or (self.intrinsics and any(v is not None for v in four)):
            raise ValueError("give fx, fy, cx and cy, or `intrinsics`")
        matrix = self.matrix()
        if min(matrix[0, 0], matrix[1, 1]) <= 0 or np.tril(matrix, -1).any() or matrix[2, 2] != 1:
            raise ValueError("`intrinsics` is no camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
        height, width = self.size
        if not (-width < matrix[0, 2] < 2 * width and -height < matrix[1, 2] < 2 * height):
            raise ValueError(f"the centre cx, cy lies far outside the image of {height}×{width} pixels (height×width)")
        placed = (self.lidar_to_camera, self.camera_to_lidar, self.vehicle_to_camera, self.camera_to_vehicle)
        if sum(each is not None for each in placed) != 1:
            raise ValueError(
                "give one of lidar_to_camera, camera_to_lidar, vehicle_to_camera and camera_to_vehicle: where the "
                "camera sits"
            )
        self._stands_upright()
        return self

    def _stands_upright(self) -> None:
        """Refuse a quaternion under which the camera lies, if it stands upright with the numbers in the other order."""
        for placed, is_to_camera in (
            (self.lidar_to_camera, True),
            (self.vehicle_to_camera, True),
            (self.camera_to_lidar, False),
            (self.camera_to_vehicle, False),
        ):
            other = placed.other_order() if placed else None
            if placed is None or other is None:
                continue
            down, other_down = (
                float((each if is_to_camera else each.T)[1, 2]) for each in (placed.as_matrix()[:3, :3], other)
            )
            if down > -_LYING and other_down < -_UPRIGHT:
                raise ValueError(
                    "the quaternion lays the camera on its side or back, where the other order, real part "
                    f"{'first' if placed.quaternion_xyzw else 'last'}, lets it stand upright: write "
                    f"{'quaternion_wxyz' if placed.quaternion_xyzw else 'quaternion_xyzw'}; or `matrix`, if it is meant"
                )

    def matrix(self) -> Matrix:
        """(3, 3) float64, camera metres to pixels."""
        if self.intrinsics is not None:
            return np.array(self.intrinsics, np.float64)
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)


class Lidar(Section):
    """One LiDAR. Its frame: x forward, y left, z up; metres."""

    columns: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ("x", "y", "z", "intensity")
    """Names of the float32 numbers of a point in .bin files, and of the columns of plain .npy arrays."""
    reflectance_scale: float | None = Field(1.0, gt=0)
    """Raw intensity of a perfect reflector: 1, 255, 65535, …; null where there is no intensity."""
    lidar_to_vehicle: Transform | None = None
    vehicle_to_lidar: Transform | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not 3 <= len(self.columns) <= 64 or len(set(self.columns)) < len(self.columns):
            raise ValueError("`columns` must be 3 to 64 different names")
        if self.lidar_to_vehicle and self.vehicle_to_lidar:
            raise ValueError("give lidar_to_vehicle or vehicle_to_lidar, not both")
        return self


class LogCalibration(Section):
    """The file as a whole."""

    time_unit: Literal["ns", "us", "ms", "s"] | None = None
    """Unit of the times that files are named by; left out, an image and its scan have the same name."""
    cameras: dict[str, Camera] = Field(min_length=1, max_length=64)
    """By folder name below images/."""
    lidars: dict[str, Lidar] = Field(min_length=1, max_length=64)
    """By folder name below scans/."""

    @model_validator(mode="after")
    def _chains_close(self) -> Self:
        for name, camera in self.cameras.items():
            if camera.lidar_to_camera or camera.camera_to_lidar:
                if len(self.lidars) > 1:
                    raise ValueError(
                        f"the camera {name} has lidar_to_camera or camera_to_lidar, which goes with one LiDAR only; "
                        "place all sensors in the vehicle's frame: camera_to_vehicle, lidar_to_vehicle"
                    )
                continue
            for lidar_name, lidar in self.lidars.items():
                if not (lidar.lidar_to_vehicle or lidar.vehicle_to_lidar):
                    raise ValueError(
                        f"the camera {name} is placed in the vehicle's frame, so the LiDAR {lidar_name} needs "
                        "lidar_to_vehicle or vehicle_to_lidar"
                    )
        return self

    def lidar_to_camera(self, lidar: str, camera: str) -> Matrix:
        """(4, 4) float64, metres."""
        seen, scanning = self.cameras[camera], self.lidars[lidar]
        if seen.lidar_to_camera or seen.camera_to_lidar:
            return _one_of(seen.lidar_to_camera, seen.camera_to_lidar)
        to_vehicle = _one_of(scanning.lidar_to_vehicle, scanning.vehicle_to_lidar)
        return _one_of(seen.vehicle_to_camera, seen.camera_to_vehicle) @ to_vehicle


def check_rigid(matrix: Matrix) -> None:
    """Check that a (4, 4) matrix is a rotation and a translation of sensors on one vehicle.

    Raises:
        ValueError: what it is instead.
    """
    rotation, shift = matrix[:3, :3], matrix[:3, 3]
    if matrix[3].tolist() != [0, 0, 0, 1]:
        raise ValueError("the last row of `matrix` is not 0 0 0 1 (is it transposed?)")
    if rotation_error(matrix) > _TOLERANCE:
        raise ValueError("the 3×3 part of `matrix` is no rotation: its rows are not of length 1 and square to another")
    if np.linalg.det(rotation) < 0:
        raise ValueError("the 3×3 part of `matrix` mirrors (its determinant is −1): an axis has the wrong sign")
    if np.abs(shift).max() > _FARTHEST:
        raise ValueError(f"shifts by {np.abs(shift).max():g} metres; are these millimetres?")


def calibration_of(sequence: Path) -> Path:
    """File that holds for a sequence: its own, or that of all sequences beside it."""
    own = sequence / NAME
    return own if own.is_file() else sequence.parent / NAME


def read_calibration(file: Path) -> LogCalibration:
    """Read and check a calibration, once while the file stays the same.

    Raises:
        BrokenFrameError: it is missing, no YAML, or a value in it is refused.
    """
    try:
        status = file.stat()
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        if isinstance(error, FileNotFoundError):
            here = [path.name for place in ("", "*/") for path in file.parent.glob(f"{place}calibration.yml")]
            reason = f"the calibration file is missing{'; rename calibration.yml' if here else ''}"
        raise BrokenFrameError(file, reason) from None
    return _read(file, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _read(file: Path, _version: tuple[int, int]) -> LogCalibration:
    try:
        values = read_yaml(file)
    except StorageError:
        raise
    except (SimipuError, FileNotFoundError) as error:
        raise BrokenFrameError(file, str(error)) from None
    try:
        return LogCalibration.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        more = f"; and {len(problems) - 2} more" if len(problems) > 2 else ""
        raise BrokenFrameError(file, "; ".join(map(_describe, problems[:2])) + more) from None


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])[:100]
    if problem["type"] == "extra_forbidden":
        return f"the key {key} is not known"
    if problem["type"] == "missing":
        return f"the key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] == "value_error" else f" (got {str(problem['input'])[:60]})"
    return f"{key}: {message}{got}" if key else f"{message}{got}"


def _one_of(forward: Transform | None, backward: Transform | None) -> Matrix:
    if backward is None:
        return forward.as_matrix() if forward else np.eye(4)
    return inverse(backward.as_matrix())
