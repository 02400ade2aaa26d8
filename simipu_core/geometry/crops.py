"""The fixed image regions of the depth benchmarks, as half-open row and column ranges."""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from simipu_core.errors import SimipuError

KB_SIZE = (352, 1216)
_GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
ArrayT = TypeVar("ArrayT", bound=NDArray[np.generic])


class Crop(NamedTuple):
    """Rows top:bottom and columns left:right."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, array: ArrayT) -> ArrayT:
        """The region of an array (H, W, ...), as a view."""
        return array[self.top : self.bottom, self.left : self.right]  # type: ignore[return-value]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def inside(self, outer: "Crop") -> "Crop":
        """This region of a frame that was cut by `outer`, in the frame's own rows and columns."""
        return Crop(self.top + outer.top, self.bottom + outer.top, self.left + outer.left, self.right + outer.left)


KB_FRAMES = (KB_SIZE, (400, 1300))
"""Least and largest frames of KITTI's cameras, which its crop is meant for."""
NYU_FRAMES = ((480, 640), (480, 640))
"""The frames of NYU Depth v2, which its crops are meant for."""
NYU_CROP = Crop(45, 472, 43, 608)
"""Training crop of NYU Depth v2 (docs/method.md, "Depth augmentation")."""
EIGEN_NYU = Crop(45, 471, 41, 601)
"""Evaluation crop of NYU Depth v2 (docs/method.md, "Protocols")."""


def kb_crop(height: int, width: int) -> Crop:
    """The 352×1216 KITTI benchmark crop: bottom, centred (docs/method.md, "Depth augmentation").

    Raises:
        SimipuError: the frame is smaller.
    """
    rows, columns = KB_SIZE
    if height < rows or width < columns:
        raise SimipuError(
            f"the frame is {height}×{width}, smaller than the KITTI benchmark crop {rows}×{columns}; "
            "use fixed_crop `none` and the protocol `whole_frame` for such frames."
        )
    left = (width - columns) // 2
    return Crop(height - rows, height, left, left + columns)


def garg_crop(height: int, width: int) -> Crop:
    """The region of Garg et al. 2016, as fractions of the given size (docs/method.md, "Protocols")."""
    top, bottom, left, right = _GARG
    return Crop(int(top * height), int(bottom * height), int(left * width), int(right * width))
