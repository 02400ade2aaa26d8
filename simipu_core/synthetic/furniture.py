"""Furniture, each piece about the middle of its own floor rectangle, its back towards −x."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.props import varied
from simipu_core.synthetic.scene import Builder, Colour, Material, Primitives

_WOODS: tuple[Colour, ...] = (
    (0.6, 0.43, 0.27),
    (0.42, 0.27, 0.17),
    (0.75, 0.6, 0.42),
    (0.9, 0.89, 0.86),
    (0.25, 0.18, 0.14),
)
_FABRICS: tuple[Colour, ...] = (
    (0.35, 0.38, 0.5),
    (0.55, 0.2, 0.2),
    (0.75, 0.7, 0.6),
    (0.3, 0.42, 0.32),
    (0.3, 0.3, 0.32),
    (0.82, 0.8, 0.78),
    (0.65, 0.5, 0.25),
)


@dataclass(frozen=True)
class Piece:
    """A piece of furniture and the floor that it takes."""

    shape: Primitives
    depth: float
    """Metres along its own x."""
    width: float
    """Metres along its own y."""


def _legs(b: Builder, colour: Colour, depth: float, width: float, height: float) -> None:
    for x in (depth / 2 - 0.04, 0.04 - depth / 2):
        for y in (width / 2 - 0.04, 0.04 - width / 2):
            b.box(Material.WOOD, colour, (x, y, 0), (0.05, 0.05, height))


def _clutter(b: Builder, rng: np.random.Generator, depth: float, width: float, height: float) -> None:
    """A few things left on a surface."""
    for _ in range(int(rng.integers(1, 6))):
        at = (rng.uniform(-0.4, 0.4) * depth, rng.uniform(-0.42, 0.42) * width, height)
        kind = rng.integers(3)
        if kind == 0:
            b.cylinder(Material.PLAIN, varied(rng, _FABRICS, 0.2), at, rng.uniform(0.03, 0.08), rng.uniform(0.08, 0.25))
        elif kind == 1:
            size = (rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.25), rng.uniform(0.03, 0.2))
            b.box(Material.PLAIN, varied(rng, _FABRICS, 0.2), at, size, yaw=rng.uniform(0, 3))
        else:
            radius = rng.uniform(0.05, 0.11)
            b.ellipsoid(Material.PLAIN, varied(rng, _FABRICS, 0.2), (at[0], at[1], height + radius), (radius,) * 3)


def bed(rng: np.random.Generator) -> Piece:
    """A bed with covers and pillows."""
    b = Builder(rng)
    length, width = 2.05, rng.uniform(1.0, 1.9)
    wood, cover = varied(rng, _WOODS), varied(rng, _FABRICS)
    b.box(Material.WOOD, wood, (0, 0, 0), (length, width, 0.32))
    b.box(Material.CLOTH, (0.88, 0.87, 0.85), (0.02, 0, 0.32), (length - 0.06, width - 0.02, 0.16))
    b.box(Material.CLOTH, cover, (0.3, 0, 0.3), (length - 0.6, width + 0.05, 0.22), taper=(0.01, 0.03))
    b.box(Material.WOOD, wood, (-length / 2, 0, 0), (0.06, width + 0.06, rng.uniform(0.8, 1.2)))
    for y in (-width / 4, width / 4):
        b.ellipsoid(Material.CLOTH, (0.9, 0.9, 0.88), (-length / 2 + 0.3, y, 0.55), (0.2, width / 5, 0.11))
    return Piece(b.build(), length, width)


def sofa(rng: np.random.Generator) -> Piece:
    """An armchair or sofa."""
    b = Builder(rng)
    width, fabric = rng.uniform(0.95, 2.2), varied(rng, _FABRICS)
    b.box(Material.CLOTH, fabric, (0, 0, 0.08), (0.85, width, 0.34))
    b.box(Material.CLOTH, fabric, (-0.33, 0, 0.42), (0.22, width, 0.45), taper=(0.3, 0.02))
    for side in (1, -1):
        b.box(Material.CLOTH, fabric, (0, side * (width / 2 - 0.09), 0.42), (0.85, 0.18, 0.2))
    if rng.random() < 0.7:
        b.ellipsoid(Material.CLOTH, varied(rng, _FABRICS), (-0.12, width * 0.25, 0.6), (0.1, 0.2, 0.2))
    return Piece(b.build(), 0.85, width)


def shelf(rng: np.random.Generator) -> Piece:
    """A bookcase."""
    b = Builder(rng)
    width, height = rng.uniform(0.7, 1.6), rng.uniform(1.0, 2.1)
    wood = varied(rng, _WOODS)
    b.box(Material.BOOKS, wood, (-0.02, 0, 0), (0.28, width - 0.04, height - 0.02))
    for level in np.arange(0.0, height - 0.1, 0.34):
        b.box(Material.WOOD, wood, (0, 0, float(level)), (0.33, width, 0.03))
    b.box(Material.WOOD, wood, (0, 0, height - 0.03), (0.33, width, 0.03))
    for y in (-width / 2, width / 2):
        b.box(Material.WOOD, wood, (0, y, 0), (0.33, 0.03, height))
    return Piece(b.build(), 0.35, width)


def cupboard(rng: np.random.Generator) -> Piece:
    """A cupboard, sideboard or television stand."""
    b = Builder(rng)
    depth, width, height = rng.uniform(0.4, 0.65), rng.uniform(0.6, 1.8), float(rng.choice([0.8, 0.95, 2.0]))
    wood = varied(rng, _WOODS)
    b.box(Material.WOOD, wood, (0, 0, 0.05), (depth, width, height))
    doors = max(1, round(width / 0.5))
    for index in range(doors):
        y = (index + 0.5) / doors * width - width / 2
        front = (wood[0] * 0.93, wood[1] * 0.93, wood[2] * 0.93)
        b.box(Material.WOOD, front, (depth / 2, y, 0.09), (0.04, width / doors - 0.03, height - 0.08))
        b.ellipsoid(Material.PLAIN, (0.7, 0.7, 0.7), (depth / 2 + 0.04, y, height * 0.6), (0.02, 0.02, 0.02))
    if height < 1.5:
        if rng.random() < 0.35:
            b.box(Material.PLAIN, (0.06, 0.06, 0.07), (-0.05, 0, height + 0.05), (0.06, min(width, 1.1), 0.62))
        else:
            _clutter(b, rng, depth, width, height + 0.05)
    return Piece(b.build(), depth + 0.05, width)


def desk(rng: np.random.Generator) -> Piece:
    """A desk with a screen and a chair."""
    b = Builder(rng)
    depth, width, wood = rng.uniform(0.6, 0.8), rng.uniform(1.0, 1.7), varied(rng, _WOODS)
    b.box(Material.WOOD, wood, (0, 0, 0.71), (depth, width, 0.035))
    _legs(b, wood, depth, width, 0.71)
    b.box(Material.WOOD, wood, (-0.05, width / 2 - 0.25, 0.2), (depth - 0.15, 0.42, 0.5))
    b.box(Material.PLAIN, (0.07, 0.07, 0.08), (-0.15, 0, 0.85), (0.05, 0.55, 0.34))
    b.box(Material.PLAIN, (0.1, 0.1, 0.1), (-0.15, 0, 0.74), (0.18, 0.2, 0.12))
    _clutter(b, rng, depth, width, 0.745)
    _chair(b, rng, (depth / 2 + 0.1, 0.0), np.pi)
    return Piece(b.build(), depth + 0.5, width)


def _chair(b: Builder, rng: np.random.Generator, at: tuple[float, float], facing: float) -> None:
    """A chair whose sitter looks towards `facing`."""
    wood = varied(rng, _WOODS)
    x, y = at
    cos, sin = float(np.cos(facing)), float(np.sin(facing))
    b.box(Material.WOOD, wood, (x, y, 0.42), (0.42, 0.42, 0.045), yaw=facing)
    b.box(Material.WOOD, wood, (x - 0.2 * cos, y - 0.2 * sin, 0.55), (0.035, 0.42, 0.38), yaw=facing)
    for along in (0.18, -0.18):
        for across in (0.18, -0.18):
            leg = (x + along * cos - across * sin, y + along * sin + across * cos, 0.0)
            b.box(Material.WOOD, wood, leg, (0.04, 0.04, 0.95 if along < 0 else 0.42), yaw=facing)


def table(rng: np.random.Generator) -> Piece:
    """A dining table with chairs."""
    b = Builder(rng)
    wood = varied(rng, _WOODS)
    if rng.random() < 0.35:
        radius = rng.uniform(0.45, 0.65)
        b.cylinder(Material.WOOD, wood, (0, 0, 0.71), radius, 0.035)
        b.cylinder(Material.WOOD, wood, (0, 0, 0), 0.06, 0.71)
        b.cylinder(Material.WOOD, wood, (0, 0, 0), 0.28, 0.03)
        depth = width = 2 * radius
    else:
        depth, width = rng.uniform(0.75, 0.95), rng.uniform(1.1, 1.8)
        b.box(Material.WOOD, wood, (0, 0, 0.71), (depth, width, 0.04))
        _legs(b, wood, depth, width, 0.71)
    _clutter(b, rng, depth * 0.7, width * 0.7, 0.75)
    for side in (1, -1):
        for y in (-width / 4, width / 4) if width > 1.3 else (0.0,):
            _chair(b, rng, (side * (depth / 2 + 0.12), y + rng.normal(0, 0.05)), 0.0 if side < 0 else np.pi)
    return Piece(b.build(), depth + 0.7, width)


def low_table(rng: np.random.Generator) -> Piece:
    """A coffee table on a rug."""
    b = Builder(rng)
    depth, width, wood = rng.uniform(0.5, 0.7), rng.uniform(0.8, 1.2), varied(rng, _WOODS)
    b.box(Material.CLOTH, varied(rng, _FABRICS), (0, 0, 0), (depth + 0.9, width + 0.7, 0.015))
    b.box(Material.WOOD, wood, (0, 0, 0.36), (depth, width, 0.05))
    _legs(b, wood, depth, width, 0.36)
    _clutter(b, rng, depth, width, 0.41)
    return Piece(b.build(), depth, width)


def plant(rng: np.random.Generator) -> Piece:
    """A pot plant."""
    b = Builder(rng)
    b.cylinder(Material.PLAIN, varied(rng, ((0.7, 0.4, 0.28), (0.85, 0.85, 0.82))), (0, 0, 0), 0.17, 0.32)
    b.cylinder(Material.BARK, (0.35, 0.28, 0.2), (0, 0, 0.3), 0.025, 0.6)
    for _ in range(5):
        x, y, z = rng.normal(0, 0.12), rng.normal(0, 0.12), rng.uniform(0.6, 1.25)
        b.ellipsoid(Material.FOLIAGE, (0.22, 0.42, 0.2), (x, y, z), (0.19, 0.16, 0.14))
    return Piece(b.build(), 0.4, 0.4)


def floor_lamp(rng: np.random.Generator) -> Piece:
    """A standing lamp."""
    b = Builder(rng)
    b.cylinder(Material.PLAIN, (0.25, 0.25, 0.25), (0, 0, 0), 0.14, 0.03)
    b.cylinder(Material.PLAIN, (0.3, 0.3, 0.3), (0, 0, 0), 0.015, 1.45)
    b.box(Material.LAMP, (0.98, 0.88, 0.68), (0, 0, 1.4), (0.36, 0.36, 0.26), taper=(0.4, 0.4))
    return Piece(b.build(), 0.4, 0.4)


def crate(rng: np.random.Generator) -> Piece:
    """A box on the floor."""
    b = Builder(rng)
    depth, width, height = rng.uniform(0.3, 0.55, 3)
    b.box(Material.PLAIN, varied(rng, ((0.65, 0.5, 0.35), *_FABRICS)), (0, 0, 0), (depth, width, height))
    return Piece(b.build(), depth, width)


AGAINST_WALLS: tuple[Callable[[np.random.Generator], Piece], ...] = (
    bed,
    sofa,
    shelf,
    cupboard,
    desk,
    cupboard,
    shelf,
    plant,
    floor_lamp,
    crate,
)
IN_THE_MIDDLE: tuple[Callable[[np.random.Generator], Piece], ...] = (table, low_table, sofa, crate)
