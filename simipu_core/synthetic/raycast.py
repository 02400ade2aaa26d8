"""Rays against primitives: nearest hits, surfaces at the hits, and shadows.

Every primitive is tried only on the rays that can meet it: a window of a ray grid for the sensors, a strip of sorted
points for the sun. Distances are multiples of the given direction's length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.scene import Floats, Ints, Kind, Primitives

NONE = -1
"""Primitive index of a ray that meets nothing."""
_NEAREST = 1e-3
_FACES = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)], np.float32)


@dataclass(frozen=True)
class Hits:
    """Nearest hit of each ray of a grid."""

    distance: Floats
    """(R, C) float32, inf where nothing is met."""
    solid: Ints
    """(R, C) int32 index of the primitive, `NONE` where nothing is met."""


@dataclass(frozen=True)
class Surface:
    """M hit points."""

    solid: Ints
    """(M,) index of the primitive."""
    point: Floats
    """(3, M) float32, world frame, metres."""
    local: Floats
    """(3, M) float32, the primitive's own axes about its centre, metres."""
    normal: Floats
    """(3, M) float32, outward unit normals, world frame."""
    face: Ints
    """(M,) int8: boxes +x −x +y −y +z −z as 0–5; cylinders side 0, top 4, bottom 5; otherwise 4."""


def full_windows(count: int, rows: int, columns: int) -> Ints:
    """Windows that try every primitive on every ray: the slow obvious way."""
    windows = np.zeros((count, 5), np.int64)
    windows[:, 0] = np.arange(count)
    windows[:, 2], windows[:, 4] = rows, columns
    return windows


def cast(solids: Primitives, origin: Floats, directions: Floats, windows: Ints) -> Hits:
    """Find the nearest primitive of every ray of a grid.

    Args:
        solids: N primitives.
        origin: (3,) common origin of the rays, world frame, metres.
        directions: (3, R, C) float32, any length.
        windows: (K, 5) rows of (primitive, first row, end row, first column, end column) to try.
    """
    distance = np.full(directions.shape[1:], np.inf, np.float32)
    solid = np.full(directions.shape[1:], NONE, np.int32)
    shapes, start = _shapes(solids), origin.tolist()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for index, top, bottom, left, right in windows.tolist():
            window = np.s_[top:bottom, left:right]
            hit = _hit(shapes[index], start, directions[:, top:bottom, left:right])
            nearer = hit < distance[window]
            np.copyto(distance[window], hit, where=nearer)
            np.copyto(solid[window], index, where=nearer)
    return Hits(distance, solid)


def occluded(solids: Primitives, points: Floats, direction: Floats) -> NDArray[np.bool_]:
    """Tell which points have a primitive in a common direction, for example towards the sun.

    Args:
        solids: primitives that cast shadows.
        points: (3, M) float32, world frame; a little off their own surface.
        direction: (3,) unit vector.

    Returns:
        (M,) mask.
    """
    across = np.cross(direction, (1.0, 0.0, 0.0) if abs(direction[0]) < 0.9 else (0.0, 1.0, 0.0))
    across /= np.linalg.norm(across)
    basis = np.stack((across, np.cross(direction, across), direction))
    x, y, z = points
    a, b, c = (row[0] * x + row[1] * y + row[2] * z for row in basis.tolist())
    order = np.argsort(a, kind="stable")
    a, b, c, points = a[order], b[order], c[order], points[:, order]
    bounds = solids.corners() @ basis.T
    low, high = bounds.min(axis=1) - 1e-3, bounds.max(axis=1) + 1e-3
    first, end = np.searchsorted(a, low[:, 0]), np.searchsorted(a, high[:, 0])
    hidden = np.zeros(a.size, bool)
    toward = [np.float32(x) for x in direction]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for index, shape in enumerate(_shapes(solids)):
            strip = slice(first[index], end[index])
            tried = (b[strip] > low[index, 1]) & (b[strip] < high[index, 1]) & (c[strip] < high[index, 2])
            which = np.flatnonzero(tried & ~hidden[strip]) + strip.start
            if which.size:
                hidden[which] = np.isfinite(_hit(shape, points[:, which], toward))
    result = np.empty_like(hidden)
    result[order] = hidden
    return result


def surface(solids: Primitives, solid: Ints, points: Floats) -> Surface:
    """Describe the surfaces at hit points.

    Args:
        solids: N primitives.
        solid: (M,) primitive of each point.
        points: (3, M) float32, world frame.
    """
    centre = solids.centre.T.astype(np.float32)[:, solid]
    half = solids.half.T.astype(np.float32)[:, solid]
    cos, sin = (f(solids.yaw).astype(np.float32)[solid] for f in (np.cos, np.sin))
    x, y, z = points - centre
    local = np.stack((cos * x + sin * y, cos * y - sin * x, z))
    face = np.full(solid.shape, 4, np.int8)
    normal = np.zeros_like(local)
    normal[2] = 1.0
    kinds = solids.kind[solid]

    which = np.flatnonzero(kinds == Kind.BOX)
    slope = (solids.half[:, :2] * solids.taper / np.maximum(2 * solids.half[:, 2:], 1e-9)).T.astype(np.float32)
    slopes = slope[:, solid[which]]
    reach = half[:2, which] - slopes * (half[2, which] + local[2, which])
    lx, ly, lz = local[:, which]
    steep = 1 / np.sqrt(1 + slopes**2)
    outside = np.stack(
        (
            (lx - reach[0]) * steep[0],
            (-lx - reach[0]) * steep[0],
            (ly - reach[1]) * steep[1],
            (-ly - reach[1]) * steep[1],
            lz - half[2, which],
            -lz - half[2, which],
        )
    )
    face[which] = outside.argmax(axis=0)
    leaning = _FACES.T[:, face[which]]
    axis = face[which] >> 1
    leaning[2] += np.where(axis == 0, slopes[0], np.where(axis == 1, slopes[1], 0))
    normal[:, which] = leaning / np.sqrt((leaning**2).sum(axis=0))

    which = np.flatnonzero(kinds == Kind.CYLINDER)
    lx, ly, lz = local[:, which]
    radius = half[0, which]
    side = np.abs(np.hypot(lx, ly) - radius) < np.abs(np.abs(lz) - half[2, which])
    face[which] = np.where(side, 0, np.where(lz > 0, 4, 5))
    normal[:, which] = np.where(side, (lx / radius, ly / radius, 0 * lz), (0 * lx, 0 * ly, np.sign(lz)))

    which = np.flatnonzero(kinds == Kind.ELLIPSOID)
    gradient = local[:, which] / half[:, which] ** 2
    normal[:, which] = gradient / np.sqrt((gradient**2).sum(axis=0))

    nx, ny, nz = normal
    return Surface(solid, points, local, np.stack((cos * nx - sin * ny, sin * nx + cos * ny, nz)), face)


@dataclass(frozen=True)
class _Shape:
    """One primitive as plain Python numbers, which keep float32 arrays float32."""

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    taper: tuple[float, float]
    cos: float
    sin: float


def _shapes(solids: Primitives) -> list[_Shape]:
    columns = (solids.kind, solids.centre, solids.half, solids.taper, np.cos(solids.yaw), np.sin(solids.yaw))
    return [_Shape(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _hit(shape: _Shape, origin: Any, direction: Any) -> Floats:
    """Distance to one primitive, inf where missed; origin and direction are triples that broadcast."""
    x, y, z = (origin[axis] - shape.centre[axis] for axis in range(3))
    dx, dy, dz = direction
    if shape.kind == Kind.PLANE:
        distance = -z / dz
        return np.where((distance > _NEAREST) & (dz < 0), distance, np.float32(np.inf))
    if shape.kind != Kind.CYLINDER and shape.sin != 0:
        x, y = shape.cos * x + shape.sin * y, shape.cos * y - shape.sin * x
        dx, dy = shape.cos * dx + shape.sin * dy, shape.cos * dy - shape.sin * dx
    interval = {Kind.BOX: _box, Kind.CYLINDER: _cylinder, Kind.ELLIPSOID: _ellipsoid}[Kind(shape.kind)]
    enter, leave = interval(shape, (x, y, z), (dx, dy, dz))
    return np.where((enter <= leave) & (enter > _NEAREST), enter, np.float32(np.inf))


def _slab(half: float, o: Any, d: Any) -> tuple[Any, Any]:
    one, other = (half - o) / d, (-half - o) / d
    return np.minimum(one, other), np.maximum(one, other)


def _wedge(half: float, slope: float, height: float, o: Any, oz: Any, d: Any, dz: Any) -> tuple[Any, Any]:
    """Two sides that lean inwards by `slope` per metre above the base."""
    room = half - slope * (height + oz)
    lean = slope * dz
    near: Any = np.float32(-np.inf)
    far: Any = np.float32(np.inf)
    for sign in (1.0, -1.0):
        falling = sign * d + lean + 1e-20
        t = (room - sign * o) / falling
        near = np.maximum(near, np.where(falling < 0, t, np.float32(-np.inf)))
        far = np.minimum(far, np.where(falling > 0, t, np.float32(np.inf)))
    return near, far


def _box(shape: _Shape, o: Any, d: Any) -> tuple[Any, Any]:
    height = shape.half[2]
    near, far = _slab(height, o[2], d[2])
    for axis in (0, 1):
        half, taper = shape.half[axis], shape.taper[axis]
        if taper:
            slope = half * taper / (2 * height)
            near_side, far_side = _wedge(half, slope, height, o[axis], o[2], d[axis], d[2])
        else:
            near_side, far_side = _slab(half, o[axis], d[axis])
        near, far = np.maximum(near, near_side), np.minimum(far, far_side)
    return near, far


def _cylinder(shape: _Shape, o: Any, d: Any) -> tuple[Any, Any]:
    dx = d[0] + 1e-9  # an exactly vertical ray has no direction in plan
    flat = dx * dx + d[1] * d[1]
    closest = -(o[0] * dx + o[1] * d[1])
    cross = o[0] * d[1] - o[1] * dx
    inside = shape.half[0] ** 2 * flat - cross * cross
    chord = np.sqrt(np.maximum(inside, 0))
    near, far = _slab(shape.half[2], o[2], d[2])
    enter = np.where(inside >= 0, (closest - chord) / flat, np.float32(np.inf))
    return np.maximum(near, enter), np.minimum(far, (closest + chord) / flat)


def _ellipsoid(shape: _Shape, o: Any, d: Any) -> tuple[Any, Any]:
    x, y, z = (o[axis] / shape.half[axis] for axis in range(3))
    dx, dy, dz = (d[axis] / shape.half[axis] for axis in range(3))
    square = dx * dx + dy * dy + dz * dz
    closest = -(x * dx + y * dy + z * dz) / square
    px, py, pz = x + closest * dx, y + closest * dy, z + closest * dz
    inside = 1 - (px * px + py * py + pz * pz)
    chord = np.sqrt(np.maximum(inside, 0) / square)
    return np.where(inside >= 0, closest - chord, np.float32(np.inf)), closest + chord
