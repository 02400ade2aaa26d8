"""The ray-caster against scalar, obvious arithmetic."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simipu_core.synthetic.raycast import NONE, cast, full_windows, occluded, surface
from simipu_core.synthetic.scene import Builder, Floats, Kind, Material, Primitives, join

Point = tuple[float, ...]


def solid(kind: Kind, half: tuple[float, float, float], yaw: float, taper: tuple[float, float] = (0, 0)) -> Primitives:
    b = Builder(np.random.default_rng(0))
    if kind == Kind.BOX:
        b.box(
            Material.PLAIN,
            (1, 1, 1),
            (1, 2, 3 - half[2]),
            (2 * half[0], 2 * half[1], 2 * half[2]),
            yaw=yaw,
            taper=taper,
        )
    elif kind == Kind.CYLINDER:
        b.cylinder(Material.PLAIN, (1, 1, 1), (1, 2, 3 - half[2]), half[0], 2 * half[2])
    elif kind == Kind.ELLIPSOID:
        b.ellipsoid(Material.PLAIN, (1, 1, 1), (1, 2, 3), half, yaw=yaw)
    else:
        b.plane(Material.GROUND, 3)
    return b.build()


def depth_inside(
    kind: Kind,
    half: tuple[float, float, float],
    yaw: float,
    taper: tuple[float, float],
    point: Point,
) -> float:
    """Positive inside the solid about (1, 2, 3), 0 on its surface, negative outside; in units of its size."""
    x, y, z = point[0] - 1, point[1] - 2, point[2] - 3
    x, y = math.cos(yaw) * x + math.sin(yaw) * y, math.cos(yaw) * y - math.sin(yaw) * x
    if kind == Kind.PLANE:
        return -z
    if kind == Kind.BOX:
        rise = (z + half[2]) / (2 * half[2])
        narrow = [1 - share * rise for share in taper]
        return min(narrow[0] - abs(x) / half[0], narrow[1] - abs(y) / half[1], 1 - abs(z) / half[2])
    if kind == Kind.CYLINDER:
        return min(1 - math.hypot(x, y) / half[0], 1 - abs(z) / half[2])
    return 1 - math.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)


def march(origin: Floats, direction: Floats, inside: Callable[[Point], float], reach: float) -> float:
    """First entry along a ray by small steps and bisection, inf if none."""
    steps = 300
    previous = 0.0
    for step in range(1, steps + 1):
        t = reach * step / steps
        if inside(tuple(origin + t * direction)) > 0:
            for _ in range(50):
                middle = (previous + t) / 2
                if inside(tuple(origin + middle * direction)) > 0:
                    t = middle
                else:
                    previous = middle
            return t
        previous = t
    return math.inf


def shoot(solids: Primitives, origin: Floats, direction: Floats) -> tuple[float, int]:
    rays = direction.astype(np.float32).reshape(3, 1, 1)
    hits = cast(solids, origin, rays, full_windows(len(solids), 1, 1))
    return float(hits.distance[0, 0]), int(hits.solid[0, 0])


unit = st.floats(-1, 1)
size = st.floats(0.5, 2.5)


@settings(deadline=None)
@given(
    kind=st.sampled_from(list(Kind)),
    half=st.tuples(size, size, size),
    yaw=st.floats(-3, 3),
    taper=st.sampled_from([(0.0, 0.0), (0.4, 0.0), (0.0, 1.0), (0.3, 0.6)]),
    bearing=st.floats(-3.1, 3.1),
    height=st.floats(-5, 12),
    aim=st.tuples(unit, unit, unit),
)
def test_hit_distance_equals_a_marched_ray(
    kind: Kind,
    half: tuple[float, float, float],
    yaw: float,
    taper: tuple[float, float],
    bearing: float,
    height: float,
    aim: tuple[float, float, float],
) -> None:
    origin = np.array([1 + 9 * math.cos(bearing), 2 + 9 * math.sin(bearing), height])
    if kind == Kind.PLANE:
        assume(height > 3.5)
    target = np.array([1, 2, 3]) + 1.3 * np.array(half) * aim
    direction = (target - origin).astype(np.float32).astype(float)

    def inside(point: Point) -> float:
        return depth_inside(kind, half, yaw, taper, point)

    distance, index = shoot(solid(kind, half, yaw, taper), origin, direction)
    expected = march(origin, direction, inside, 2.0)
    if math.isfinite(expected) and math.isfinite(distance):
        assert distance == pytest.approx(expected, abs=1e-4)
        assert index == 0
    elif math.isfinite(expected):  # a graze may be decided either way, a real hit not
        assert max(inside(tuple(origin + t * direction)) for t in np.linspace(0, 2, 2000)) < 2e-3
    elif math.isfinite(distance) and distance < 2:
        assert abs(inside(tuple(origin + distance * direction))) < 2e-3
    else:
        assert index == NONE or distance >= 2


@pytest.mark.parametrize("kind", [Kind.BOX, Kind.CYLINDER, Kind.ELLIPSOID, Kind.PLANE])
def test_axis_aligned_rays(kind: Kind) -> None:
    shape = solid(kind, (0.5, 0.5, 1.0), 0.0)
    top = 3.0 if kind == Kind.PLANE else 4.0
    assert shoot(shape, np.array([1.0, 2.0, 10.0]), np.array([0, 0, -1.0]))[0] == pytest.approx(10 - top)
    assert shoot(shape, np.array([1.0, 2.0, 10.0]), np.array([0, 0, 1.0]))[1] == NONE
    if kind != Kind.PLANE:
        assert shoot(shape, np.array([1.6, 2.0, 10.0]), np.array([0, 0, -1.0]))[1] == NONE
        assert shoot(shape, np.array([-4.0, 2.0, 3.0]), np.array([2.0, 0, 0]))[0] == pytest.approx(2.25)
        assert shoot(shape, np.array([-4.0, 2.0, 4.5]), np.array([1.0, 0, 0]))[1] == NONE


def test_the_nearest_solid_wins() -> None:
    near, far = solid(Kind.BOX, (1, 1, 1), 0.3), solid(Kind.ELLIPSOID, (1, 1, 1), 0).placed(5, 0, 0)
    for order, expected in (([near, far], 0), ([far, near], 1)):
        assert shoot(join(order), np.array([-5.0, 2.0, 3.0]), np.array([1.0, 0, 0]))[1] == expected


@pytest.mark.parametrize("kind", [Kind.BOX, Kind.CYLINDER, Kind.ELLIPSOID])
def test_normals_point_along_the_gradient(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    half, taper, yaw = ((0.9, 0.9, 1.2), (0.0, 0.0), 0.7) if kind != Kind.BOX else ((0.9, 1.4, 1.2), (0.5, 0.3), 0.7)
    shape = solid(kind, half, yaw, taper)
    origin = np.array([-6.0, -3.0, 5.0])
    target = np.array([1, 2, 3]) + rng.uniform(-0.7, 0.7, (200, 3)) * half
    directions = (target - origin).T.astype(np.float32).reshape(3, 200, 1)
    hits = cast(shape, origin, directions, full_windows(1, 200, 1))
    seen = np.flatnonzero(hits.solid[:, 0] == 0)
    assert seen.size > 100
    points = origin[:, None] + directions[:, seen, 0].astype(float) * hits.distance[seen, 0]
    at = surface(shape, hits.solid[seen, 0], points.astype(np.float32))
    for point, normal in zip(points.T, at.normal.T.astype(float), strict=True):
        step = 1e-4
        gradient = np.array(
            [
                depth_inside(kind, half, yaw, taper, tuple(point + step * axis))
                - depth_inside(kind, half, yaw, taper, tuple(point - step * axis))
                for axis in np.eye(3)
            ]
        )
        outward = -gradient / np.linalg.norm(gradient)
        if min(abs(depth_inside(kind, half, yaw, taper, tuple(point - 0.02 * outward))), 1) > 1e-3:  # not on an edge
            assert np.dot(outward, normal) > 0.98


def test_shadows_equal_rays_cast_one_by_one() -> None:
    rng = np.random.default_rng(5)
    b = Builder(rng)
    for _ in range(12):
        x, y = rng.uniform(-8, 8, 2)
        b.box(Material.PLAIN, (1, 1, 1), (x, y, 0), (1, 2, 2), yaw=float(rng.uniform(0, 3)), taper=(0.2, 0.0))
        b.cylinder(Material.PLAIN, (1, 1, 1), (y, x, 0), 0.4, 3)
        b.ellipsoid(Material.PLAIN, (1, 1, 1), (x, -y, 3), (1, 0.6, 0.8), yaw=1.0)
    solids = b.build()
    points = np.stack((*rng.uniform(-10, 10, (2, 400)), np.full(400, 0.0))).astype(np.float32)
    sun = np.array([0.5, -0.3, 0.8]) / np.linalg.norm([0.5, -0.3, 0.8])
    slow = [shoot(solids, point.astype(float), sun)[1] != NONE for point in points.T]
    hidden = occluded(solids, points, sun)
    assert 40 < hidden.sum() < 360
    assert (hidden != slow).sum() <= 1  # float32 grazes
