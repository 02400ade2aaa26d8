"""Pinhole cameras: their rays, and the image windows in which solids can appear."""

from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.scene import Floats, Ints, Primitives

_NEAR = 0.05
_EDGES = np.array([(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on a sensor frame; pixel (0, 0) is the centre of the top left pixel."""

    intrinsics: Floats
    """(3, 3) float64, pixels."""
    lidar_to_camera: Floats
    """(4, 4) float64, sensor frame (x forward, y left, z up) to camera frame (x right, y down, z forward), metres."""
    size: tuple[int, int]
    """Height and width, pixels."""

    def position(self, sensor_to_world: Floats) -> Floats:
        """(3,) float64: the optical centre in the world."""
        return np.asarray(self._to_world(sensor_to_world)[:3, 3])

    def rays(self, u: Floats, v: Floats, sensor_to_world: Floats) -> Floats:
        """World directions through pixel positions, scaled so that distance along them is z-depth.

        Args:
            u: (R, C) or broadcastable columns.
            v: (R, C) or broadcastable rows.
            sensor_to_world: (4, 4) pose of the sensor frame.

        Returns:
            (3, R, C) float32.
        """
        turn = self._to_world(sensor_to_world)[:3, :3] @ np.linalg.inv(self.intrinsics)
        return np.stack([row[0] * u + row[1] * v + row[2] for row in turn]).astype(np.float32)

    def pixel_rays(self, sensor_to_world: Floats) -> Floats:
        """Directions through all pixel centres, (3, H, W) float32; see `rays`."""
        height, width = self.size
        return self.rays(
            np.arange(width, dtype=float)[None, :], np.arange(height, dtype=float)[:, None], sensor_to_world
        )

    def windows(self, solids: Primitives, sensor_to_world: Floats) -> Ints:
        """Rectangles of pixels that can see each solid: (K, 5) as `raycast.cast` takes them."""
        to_camera = np.linalg.inv(self._to_world(sensor_to_world))
        corners = solids.corners() @ to_camera[:3, :3].T + to_camera[:3, 3]
        start, end = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
        z0, z1 = start[..., 2:], end[..., 2:]
        crossing = (z0 < _NEAR) != (z1 < _NEAR)
        share = np.where(crossing, (_NEAR - z0) / np.where(crossing, z1 - z0, 1), 0)
        cuts = np.where(crossing, start + share * (end - start), np.nan)
        seen = np.concatenate((np.where(corners[..., 2:] >= _NEAR, corners, np.nan), cuts), axis=1)
        index = np.flatnonzero(~np.isnan(seen[..., 2]).all(axis=1))
        pixels = seen[index] @ self.intrinsics.T
        uv = pixels[..., :2] / pixels[..., 2:]
        low, high = np.nanmin(uv, axis=1), np.nanmax(uv, axis=1)
        height, width = self.size
        first = np.clip(np.ceil(low - 1e-3), 0, (width, height)).astype(np.int64)
        last = np.clip(np.floor(high + 1e-3) + 1, 0, (width, height)).astype(np.int64)
        windows = np.stack((index, first[:, 1], last[:, 1], first[:, 0], last[:, 0]), axis=1)
        return np.asarray(windows[(first < last).all(axis=1)])

    def _to_world(self, sensor_to_world: Floats) -> Floats:
        return np.asarray(sensor_to_world @ np.linalg.inv(self.lidar_to_camera))
