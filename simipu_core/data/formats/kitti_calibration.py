"""KITTI calibration text: ``label: numbers`` lines, read by label."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.files import read_text
from simipu_core.data.frames import BrokenFrameError
from simipu_core.geometry.poses import rotation_error

Matrix = NDArray[np.float64]
_TOLERANCE = 0.01
"""Published matrices have few digits."""


class Calibration:
    """The labelled lines of one calibration file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            lines = read_text(path).splitlines()
        except FileNotFoundError:
            other = path.with_suffix(path.suffix.upper())
            instead = f"; there is only {other.name}" if other.is_file() else ""
            raise BrokenFrameError(path, f"the calibration file is missing{instead}") from None
        except OSError as error:
            raise BrokenFrameError(path, f"the calibration file cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise BrokenFrameError(path, "the calibration file cannot be read as text; save it as UTF-8") from None
        self._lines = {label.strip(): rest for label, _, rest in (line.partition(":") for line in lines)}

    def matrix(self, label: str, rows: int, columns: int) -> Matrix:
        """The numbers of one line as (rows, columns) float64.

        Raises:
            BrokenFrameError: the line is missing or holds anything but so many finite numbers.
        """
        if label not in self._lines:
            raise BrokenFrameError(self.path, f"the line {label} is missing")
        try:
            values = np.array(self._lines[label].split(), np.float64)
        except ValueError:
            values = np.empty(0)
        if values.size != rows * columns or not np.isfinite(values).all():
            commas = "; write its decimal commas as points" if "," in self._lines[label] else ""
            raise BrokenFrameError(self.path, f"the line {label} is not {rows * columns} numbers{commas}")
        return values.reshape(rows, columns)


def camera_matrices(
    calibration: Calibration, projection_label: str, rectification_label: str, velo_to_cam: Matrix
) -> tuple[Matrix, Matrix]:
    """Intrinsics and lidar_to_camera of a rectified KITTI camera (docs/method.md, "Coordinates").

    KITTI projects with P · R · V, where V maps the scanner's frame to the unrectified first camera, R rectifies it
    and P (3×4) = intrinsics · [identity | offset] moves to the wanted camera. The offset goes into lidar_to_camera,
    so that intrinsics · lidar_to_camera is that product.

    Args:
        calibration: file with the two labels.
        projection_label: line of P.
        rectification_label: line of R (3×3).
        velo_to_cam: (3, 4) V.

    Returns:
        (3, 3) intrinsics, pixels, and (4, 4) lidar_to_camera, metres.

    Raises:
        BrokenFrameError: a line is missing or no camera matrix.
    """
    projection = calibration.matrix(projection_label, 3, 4)
    intrinsics = projection[:, :3]
    if min(intrinsics[0, 0], intrinsics[1, 1], intrinsics[2, 2]) <= 0 or np.tril(intrinsics, -1).any():
        raise BrokenFrameError(calibration.path, f"the line {projection_label} is no camera matrix")
    offset, rectify, to_camera = np.eye(4), np.eye(4), np.eye(4)
    rectify[:3, :3] = calibration.matrix(rectification_label, 3, 3)
    to_camera[:3] = velo_to_cam
    with np.errstate(all="ignore"):
        offset[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
        lidar_to_camera = offset @ rectify @ to_camera
    if rotation_error(lidar_to_camera) >= _TOLERANCE:
        raise BrokenFrameError(
            calibration.path, f"the line {rectification_label} and the scanner's pose make no rigid motion"
        )
    return intrinsics, lidar_to_camera
