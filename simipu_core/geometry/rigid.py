"""The similarity transform that makes the second view of a point cloud, and its exact inverse."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import PointViewConfig

Points = NDArray[np.float32]


@dataclass(frozen=True)
class PointAugmentation:
    """Rotation about a vertical axis, uniform scaling about the sensor, mirror of y.

    See docs/method.md, "Augmentation".
    """

    centre: tuple[float, float, float]
    """Point that the rotation leaves in place, metres in the sensor frame."""
    angle: float
    """Rotation, radians; row vectors are multiplied by [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]."""
    scale: float
    flip: bool

    def apply(self, xyz: Points) -> Points:
        """Augment points (N, 3), metres in the sensor frame."""
        moved = ((xyz - self._centre) @ self._rotation + self._centre) * np.float32(self.scale)
        return self._mirror(moved.astype(np.float32))

    def invert(self, xyz: Points) -> Points:
        """Undo :meth:`apply`."""
        moved = self._mirror(xyz) / np.float32(self.scale) - self._centre
        return (moved @ self._rotation.T + self._centre).astype(np.float32)

    @property
    def _centre(self) -> Points:
        return np.asarray(self.centre, np.float32)

    @property
    def _rotation(self) -> Points:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)

    def _mirror(self, xyz: Points) -> Points:
        return xyz * np.array([1, -1, 1], np.float32) if self.flip else xyz


def draw_augmentation(config: PointViewConfig, rng: np.random.Generator) -> PointAugmentation:
    """Draw the random augmentation of one sample; the rotation centre is the middle of the point range."""
    low, high = np.asarray(config.point_range[:3]), np.asarray(config.point_range[3:])
    x, y, z = ((low + high) / 2).tolist()
    limit = np.deg2rad(config.rotation_deg)
    return PointAugmentation(
        centre=(x, y, z),
        angle=float(rng.uniform(-limit, limit)),
        scale=float(rng.uniform(*config.scale)),
        flip=bool(rng.random() < config.flip),
    )
