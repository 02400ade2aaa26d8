"""What a world is made of: primitives as arrays, light, and the ground's own texture."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Colour = tuple[float, float, float]


class Kind(IntEnum):
    """Shape of a primitive; all are solids hit from outside."""

    PLANE = 0
    """Horizontal plane at its centre's height, seen from above."""
    BOX = 1
    """Box upright in its own yaw; `taper` narrows its top in its own x and y (1 = to a ridge)."""
    CYLINDER = 2
    """Upright cylinder with caps; half = (radius, radius, half height)."""
    ELLIPSOID = 3
    """Ellipsoid in its own yaw; half = semi-axes."""


class Material(IntEnum):
    """Names of the surface textures in `materials`."""

    GROUND = 0
    PLAIN = 1
    CAR_BODY = 2
    CAR_CABIN = 3
    WHEEL = 4
    FACADE = 5
    ROOF = 6
    BARK = 7
    FOLIAGE = 8
    BRICK = 9
    SIGN = 10
    FENCE = 11
    CLOTH = 12
    ROOM_WALL = 13
    WOOD = 14
    PICTURE = 15
    PANE = 16
    BOOKS = 17
    LAMP = 18


@dataclass(frozen=True)
class Primitives:
    """N solids as a struct of arrays; lengths in metres, angles in radians."""

    kind: Ints
    """(N,) of `Kind`."""
    material: Ints
    """(N,) of `Material`."""
    centre: Floats
    """(N, 3) float64, world frame."""
    half: Floats
    """(N, 3) float64, half extents in the solid's own axes."""
    taper: Floats
    """(N, 2) float64, share by which the top is narrower than the base."""
    yaw: Floats
    """(N,) float64, counter-clockwise about z."""
    colour: Floats
    """(N, 3) float32, linear RGB 0–1."""
    seed: Floats
    """(N,) float32 in 0–1: varies the texture."""

    def __len__(self) -> int:
        """Count solids."""
        return len(self.kind)

    def select(self, which: NDArray[Any]) -> Self:
        """Keep the solids that a mask or index array names."""
        return type(self)(*(getattr(self, f.name)[which] for f in fields(self)))

    def near(self, x: float, y: float, radius: float) -> Self:
        """Keep the solids whose outline comes within `radius` metres of (x, y) in plan."""
        reach = np.hypot(self.half[:, 0], self.half[:, 1])
        return self.select(np.hypot(self.centre[:, 0] - x, self.centre[:, 1] - y) - reach < radius)

    def placed(self, x: float, y: float, yaw: float) -> Self:
        """Rotate about z by `yaw`, then move by (x, y)."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        cx, cy, cz = self.centre.T
        centre = np.stack((cos * cx - sin * cy + x, sin * cx + cos * cy + y, cz), axis=1)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{**arrays, "centre": centre, "yaw": self.yaw + yaw})

    def corners(self) -> Floats:
        """(N, 8, 3) float64: corners of each solid's bounding box."""
        signs = np.array([(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8)]) * 2.0 - 1.0
        local = self.half[:, None, :] * signs
        cos, sin = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        x, y = local[..., 0], local[..., 1]
        turned = np.stack((cos * x - sin * y, sin * x + cos * y, local[..., 2]), axis=-1)
        return np.asarray(self.centre[:, None, :] + turned)


def join(parts: list[Primitives]) -> Primitives:
    """Concatenate primitives."""
    return Primitives(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Primitives)))


@dataclass
class Builder:
    """Collects solids one by one. Heights are given by base and height above the ground, colours in sRGB."""

    rng: np.random.Generator
    rows: list[tuple[Kind, Material, tuple[float, ...], tuple[float, ...], tuple[float, float], float, Colour]] = field(
        default_factory=list
    )

    def box(
        self,
        material: Material,
        colour: Colour,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        *,
        yaw: float = 0.0,
        taper: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Add a box of full `size` whose base centre is `at`."""
        half = (size[0] / 2, size[1] / 2, size[2] / 2)
        self.rows.append((Kind.BOX, material, (at[0], at[1], at[2] + half[2]), half, taper, yaw, colour))

    def cylinder(
        self, material: Material, colour: Colour, at: tuple[float, float, float], radius: float, height: float
    ) -> None:
        """Add an upright cylinder whose base centre is `at`."""
        centre = (at[0], at[1], at[2] + height / 2)
        self.rows.append((Kind.CYLINDER, material, centre, (radius, radius, height / 2), (0, 0), 0.0, colour))

    def ellipsoid(
        self,
        material: Material,
        colour: Colour,
        centre: tuple[float, float, float],
        semi_axes: tuple[float, float, float],
        *,
        yaw: float = 0.0,
    ) -> None:
        """Add an ellipsoid."""
        self.rows.append((Kind.ELLIPSOID, material, centre, semi_axes, (0, 0), yaw, colour))

    def plane(self, material: Material, height: float = 0.0) -> None:
        """Add a horizontal plane."""
        self.rows.append((Kind.PLANE, material, (0, 0, height), (1e4, 1e4, 0), (0, 0), 0.0, (0, 0, 0)))

    def build(self) -> Primitives:
        """All solids so far."""
        kind, material, centre, half, taper, yaw, colour = zip(*self.rows, strict=True)
        return Primitives(
            np.array(kind, np.int8),
            np.array(material, np.int8),
            np.array(centre, np.float64),
            np.array(half, np.float64),
            np.array(taper, np.float64),
            np.array(yaw, np.float64),
            (np.array(colour, np.float32) ** 2.2).astype(np.float32),
            self.rng.random(len(self.rows), np.float32),
        )


@dataclass(frozen=True)
class Light:
    """Illumination of a scene; colours are linear RGB."""

    sun: Colour
    """Unit vector towards the sun."""
    sun_colour: Colour
    ambient_colour: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    """Share of the sky covered, 0–1."""
    haze_distance: float
    """Distance at which haze leaves 1/e of an object's colour, metres."""


@dataclass(frozen=True)
class Look:
    """How M surface points look."""

    albedo: Floats
    """(3, M) float32, linear RGB."""
    reflectance: Floats
    """(M,) float32: share of the LiDAR's light that comes back at normal incidence, 0–1."""
    gloss: Floats
    """(M,) float32: share of the mirror image seen at a grazing view, 0–1."""


GroundTexture = Callable[[Floats, Floats, Floats], Look]
"""(x, y, footprint), each (M,) in metres, to the look of the ground there."""


@dataclass(frozen=True)
class Scene:
    """A frozen moment of a world."""

    solids: Primitives
    light: Light
    ground: GroundTexture
