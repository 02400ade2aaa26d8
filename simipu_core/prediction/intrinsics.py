"""Intrinsics of the camera that took a picture, and where they are stated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simipu_core.config import Section
from simipu_core.config.section import Positive, Size
from simipu_core.data.formats.files import read_text
from simipu_core.data.formats.log_calibration import Camera, read_calibration
from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.lenses import Lens, undistort
from simipu_core.errors import SimipuError


class Intrinsics(Section):
    """A pinhole camera, pixels of the picture as viewers show it; pixel (0, 0) is the centre of the top left one."""

    fx: Positive
    fy: Positive
    cx: float
    cy: float
    size: Size | None = None
    """Height and width of the pictures, where they are known."""
    lens: Lens | None = None
    """Distortion, which is undone before the network sees the picture."""
    distortion: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: ArrayLike, size: Size | None = None) -> "Intrinsics":
        """Those of a 3×3 matrix, in rows or flat, or of fx, fy, cx, cy.

        Raises:
            SimipuError: the values are neither.
        """
        numbers = np.asarray(values, np.float64).ravel().tolist()
        if len(numbers) == 9:
            numbers = [numbers[0], numbers[4], numbers[2], numbers[5]]
        try:
            fx, fy, cx, cy = numbers
            return cls(fx=fx, fy=fy, cx=cx, cy=cy, size=size)
        except ValueError:
            raise SimipuError("intrinsics are fx, fy, cx, cy in pixels, fx and fy above 0, or a 3×3 matrix.") from None

    def matrix(self) -> tuple[float, ...]:
        """3×3 row-major."""
        return (self.fx, 0.0, self.cx, 0.0, self.fy, self.cy, 0.0, 0.0, 1.0)

    def check(self, height: int, width: int) -> None:
        """Check that they can be those of a picture.

        Raises:
            SimipuError: a reason to be put after the picture's name.
        """
        if self.size and self.size != (height, width):
            raise SimipuError(
                "is {}×{} pixels, but its intrinsics are for {}×{}; give those of pictures of this size".format(
                    height, width, *self.size
                )
            )
        if not (0 <= self.cx <= width and 0 <= self.cy <= height):
            raise SimipuError(
                f"is {height}×{width} pixels, and the centre cx={self.cx:g}, cy={self.cy:g} of its intrinsics lies "
                "outside; give those of pictures of this size"
            )

    def undistorted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture (H, W, 3) as the pinhole camera would have taken it."""
        return undistort(image, self.matrix(), self.lens, self.distortion) if self.lens else image


def read_intrinsics(address: str) -> Intrinsics:
    """Intrinsics in a file: JSON with fx, fy, cx, cy and perhaps size, or a ``calibration.yaml`` of own logs.

    Args:
        address: file, with ``#CAMERA`` behind it where a calibration has several.

    Raises:
        SimipuError: not there, or something else.
    """
    name, _, camera = address.partition("#")
    file = Path(name)
    if file.suffix.lower() in (".yaml", ".yml"):
        try:
            return _of_camera(_chosen(file, read_calibration(file).cameras, camera))
        except BrokenFrameError as error:
            raise SimipuError(f"{error}; --intrinsics takes fx,fy,cx,cy, a JSON file or a calibration.yaml.") from None
    try:
        values: Any = json.loads(read_text(file))
        return Intrinsics.model_validate(values)
    except OSError as error:
        raise SimipuError(f"{file}: cannot be read ({error.strerror}); give the intrinsics' file.") from None
    except (ValueError, RecursionError):  # no text, no JSON, or other values
        example = '{"fx": 721.5, "fy": 721.5, "cx": 609.6, "cy": 172.9, "size": [375, 1242]}'
        raise SimipuError(f"{file}: holds no intrinsics; write them as {example}, size being optional.") from None


def _chosen(file: Path, cameras: dict[str, Camera], name: str) -> Camera:
    if not name and len(cameras) == 1:
        return next(iter(cameras.values()))
    if name not in cameras:
        raise SimipuError(f"{file}: holds the cameras {', '.join(cameras)}; choose one: --intrinsics {file}#CAMERA.")
    return cameras[name]


def _of_camera(camera: Camera) -> Intrinsics:
    made = Intrinsics.of(camera.matrix(), camera.size)
    if camera.distortion is None:
        return made
    return made.model_copy(update={"lens": camera.distortion.model, "distortion": camera.distortion.coefficients})
