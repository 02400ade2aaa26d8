"""A spinning 64-beam LiDAR in the manner of the HDL-64E."""

from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.materials import look_of
from simipu_core.synthetic.raycast import NONE, cast, surface
from simipu_core.synthetic.scene import Floats, Ints, Kind, Material, Primitives, Scene

BEAM_ELEVATIONS = np.deg2rad(np.concatenate((2 - np.arange(32) / 3, -8.83 - np.arange(32) / 2)))
"""(64,) elevations from the top beam down, radians."""
MAX_RANGE = 120.0
"""Farthest return, metres."""
RANGE_NOISE = 0.02
"""Standard deviation of a measured range, metres."""
_DETECTABLE = 1.5e-6
"""Reflectance × cosine of incidence / range² at which 63 % of the pulses come back."""
_STRAY_LOSS = 0.02
"""Share of pulses lost for no visible reason."""


@dataclass(frozen=True)
class Scan:
    """One turn, ring by ring from the top beam."""

    points: Floats
    """(M, 4) float32: x, y, z in the sensor frame, metres; reflectance 0–1."""
    beam: Ints
    """(M,) beam of each point, 0 at the top."""
    solid: Ints
    """(M,) primitive of each point."""


def scan(
    scene: Scene,
    sensor_to_world: Floats,
    num_rays: int,
    rng: np.random.Generator,
    *,
    noisy: bool = True,
    elevations: Floats = BEAM_ELEVATIONS,
) -> Scan:
    """Turn the LiDAR once.

    Args:
        scene: the world.
        sensor_to_world: (4, 4) pose of the sensor.
        num_rays: pulses in all; rounded to a whole number of firings of all beams.
        rng: source of the noise.
        noisy: add range noise and drop-outs; without, every surface within `MAX_RANGE` gives its exact point.
        elevations: (B,) of the beams from the top one down, radians.
    """
    columns = max(1, round(num_rays / elevations.size))
    azimuths = (np.arange(columns) + rng.random()) * (2 * np.pi / columns)
    beams = elevations[None, :]
    rays = np.stack(
        (
            np.cos(azimuths)[:, None] * np.cos(beams),
            np.sin(azimuths)[:, None] * np.cos(beams),
            np.broadcast_to(np.sin(beams), (columns, elevations.size)),
        )
    )
    rotation, origin = sensor_to_world[:3, :3], sensor_to_world[:3, 3]
    directions = np.einsum("ij,jkl->ikl", rotation, rays).astype(np.float32)
    windows = _windows(scene.solids, sensor_to_world, azimuths, elevations.size)
    hits = cast(scene.solids, origin, directions, windows)
    ring, column = np.nonzero((hits.solid.T != NONE) & (hits.distance.T < MAX_RANGE))
    solid, distance = hits.solid[column, ring], hits.distance[column, ring]
    toward = directions[:, column, ring]
    at = surface(scene.solids, solid, origin[:, None].astype(np.float32) + toward * distance)
    reflectance = look_of(scene, at, np.zeros_like(distance)).reflectance
    facing = np.abs((toward * at.normal).sum(axis=0))
    intensity = reflectance * facing**0.25
    if noisy:
        strength = reflectance * facing / np.maximum(distance, 1) ** 2
        kept = rng.random(distance.size) < (1 - _STRAY_LOSS) * -np.expm1(-strength / _DETECTABLE)
        ring, column, solid, distance, intensity = (a[kept] for a in (ring, column, solid, distance, intensity))
        leafy = scene.solids.material[solid] == Material.FOLIAGE
        spread = np.where(leafy, 4 * RANGE_NOISE, RANGE_NOISE)
        distance = distance + (spread * rng.standard_normal(distance.size)).astype(np.float32)
        intensity = intensity * (1 + 0.08 * rng.standard_normal(distance.size))
    points = (rays[:, column, ring] * distance).T
    points = np.concatenate((points, np.clip(intensity, 0, 0.99)[:, None]), axis=1)
    return Scan(points.astype(np.float32), ring, solid)


def _windows(solids: Primitives, sensor_to_world: Floats, azimuths: Floats, num_beams: int) -> Ints:
    """Ranges of azimuth in which each solid can be met: (K, 5) as `raycast.cast` takes them, one row a firing."""
    to_sensor = np.linalg.inv(sensor_to_world)
    corners = solids.corners() @ to_sensor[:3, :3].T + to_sensor[:3, 3]
    angle = np.arctan2(corners[..., 1], corners[..., 0])
    # The corners' azimuths, sorted around the circle: a solid spans the circle less its widest gap.
    ordered = np.sort(angle, axis=1)
    gaps = np.diff(ordered, axis=1, append=ordered[:, :1] + 2 * np.pi)
    widest = gaps.argmax(axis=1)
    rows = np.arange(len(solids))
    span = 2 * np.pi - gaps[rows, widest]
    start = ordered[rows, (widest + 1) % 8]
    around = (span > np.pi) | (solids.kind == Kind.PLANE)
    start, span = np.where(around, 0, start), np.where(around, 2 * np.pi, span)

    count = azimuths.size
    step = 2 * np.pi / count
    first = np.ceil(((start - azimuths[0]) % (2 * np.pi)) / step - 1e-3).astype(np.int64)
    width = np.where(around, count, np.minimum(np.floor(span / step).astype(np.int64) + 2, count))
    first = np.where(around, 0, first)
    end = first + width
    wrapped = np.flatnonzero(end > count)
    windows = np.zeros((len(solids) + wrapped.size, 5), np.int64)
    windows[:, 0] = np.concatenate((rows, wrapped))
    windows[:, 1] = np.concatenate((np.minimum(first, count), np.zeros(wrapped.size, np.int64)))
    windows[:, 2] = np.concatenate((np.minimum(end, count), end[wrapped] - count))
    windows[:, 4] = num_beams
    return windows[windows[:, 1] < windows[:, 2]]
