"""Things that stand in a street, each built about its own origin on the ground, x forward."""

from collections.abc import Callable

import numpy as np

from simipu_core.synthetic.scene import Builder, Colour, Material, Primitives

_CAR_COLOURS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.92),
    (0.75, 0.76, 0.78),
    (0.45, 0.46, 0.48),
    (0.1, 0.1, 0.11),
    (0.2, 0.22, 0.26),
    (0.55, 0.06, 0.06),
    (0.1, 0.2, 0.5),
    (0.12, 0.3, 0.2),
    (0.6, 0.5, 0.35),
    (0.8, 0.55, 0.1),
)
_FACADES: tuple[Colour, ...] = (
    (0.85, 0.8, 0.7),
    (0.8, 0.65, 0.5),
    (0.7, 0.5, 0.4),
    (0.6, 0.35, 0.28),
    (0.78, 0.78, 0.75),
    (0.6, 0.62, 0.65),
    (0.85, 0.75, 0.5),
    (0.5, 0.45, 0.4),
    (0.65, 0.7, 0.62),
)
_CLOTHES: tuple[Colour, ...] = (
    (0.15, 0.15, 0.2),
    (0.6, 0.15, 0.15),
    (0.2, 0.3, 0.55),
    (0.75, 0.72, 0.65),
    (0.25, 0.4, 0.25),
    (0.85, 0.65, 0.2),
)


def varied(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.06) -> Colour:
    """One of the colours, shifted a little."""
    red, green, blue = np.clip(colours[rng.integers(len(colours))] + rng.uniform(-spread, spread, 3), 0.02, 0.97)
    return (float(red), float(green), float(blue))


def car(rng: np.random.Generator) -> Primitives:
    """A saloon, hatchback, estate or van."""
    b = Builder(rng)
    paint = varied(rng, _CAR_COLOURS, 0.03)
    shape = rng.choice(["saloon", "hatch", "estate", "van"], p=[0.35, 0.3, 0.2, 0.15])
    width = rng.uniform(1.65, 1.85)
    length = {"saloon": 4.6, "hatch": 3.9, "estate": 4.6, "van": 5.0}[shape] * rng.uniform(0.94, 1.06)
    waist = {"saloon": 0.72, "hatch": 0.76, "estate": 0.76, "van": 0.95}[shape]
    roof = {"saloon": 0.54, "hatch": 0.58, "estate": 0.62, "van": 1.0}[shape] * rng.uniform(0.95, 1.1)
    cabin = {"saloon": 0.58, "hatch": 0.68, "estate": 0.72, "van": 0.8}[shape] * length
    back = {"saloon": -0.05, "hatch": -0.13, "estate": -0.12, "van": -0.09}[shape] * length
    b.box(Material.CAR_BODY, paint, (0, 0, 0.2), (length, width, waist), taper=(0.05, 0.06))
    slant = 0.1 if shape == "van" else 0.36 if shape == "saloon" else 0.27
    b.box(Material.CAR_CABIN, paint, (back, 0, 0.2 + waist), (cabin, width * 0.93, roof), taper=(slant, 0.2))
    _wheels(b, length * 0.31, width / 2 - 0.06, 0.31)
    return b.build()


def lorry(rng: np.random.Generator) -> Primitives:
    """A lorry or bus."""
    b = Builder(rng)
    length, width, height = rng.uniform(6.5, 11), rng.uniform(2.2, 2.5), rng.uniform(2.3, 3.1)
    paint = varied(rng, _CAR_COLOURS)
    if rng.random() < 0.5:
        b.box(Material.CAR_BODY, paint, (0, 0, 0.35), (length, width, 1.0))
        b.box(Material.CAR_CABIN, paint, (0, 0, 1.35), (length, width, height - 0.9), taper=(0.01, 0.03))
    else:
        b.box(Material.PLAIN, varied(rng, _CAR_COLOURS), (-1.0, 0, 0.8), (length - 2, width, height))
        b.box(Material.CAR_BODY, paint, (length / 2 - 0.95, 0, 0.4), (1.8, width * 0.95, 0.9))
        b.box(
            Material.CAR_CABIN,
            paint,
            (length / 2 - 0.95, 0, 1.3),
            (1.8, width * 0.95, height * 0.45),
            taper=(0.1, 0.05),
        )
        b.box(Material.CAR_BODY, (0.15, 0.15, 0.15), (-1.0, 0, 0.45), (length - 2, width * 0.9, 0.4))
    _wheels(b, length * 0.34, width / 2 - 0.12, 0.48)
    return b.build()


def _wheels(b: Builder, reach: float, out: float, radius: float) -> None:
    for x in (reach, -reach):
        for y in (out, -out):
            b.ellipsoid(Material.WHEEL, (0.1, 0.1, 0.1), (x, y, radius), (radius, 0.13, radius))


def pedestrian(rng: np.random.Generator) -> Primitives:
    """A walking person, facing x."""
    b = Builder(rng)
    tall = rng.uniform(0.88, 1.08)
    trousers, coat = varied(rng, _CLOTHES), varied(rng, _CLOTHES)
    stride = rng.uniform(0.05, 0.22)
    for side in (1, -1):
        b.box(Material.CLOTH, trousers, (side * stride, side * 0.09, 0), (0.17, 0.15, 0.85 * tall))
        b.ellipsoid(Material.CLOTH, coat, (-side * stride * 0.7, side * 0.25, 1.1 * tall), (0.08, 0.07, 0.32 * tall))
    b.ellipsoid(Material.CLOTH, coat, (0, 0, 1.13 * tall), (0.15, 0.22, 0.37 * tall))
    b.ellipsoid(Material.CLOTH, (0.75, 0.58, 0.48), (0, 0, 1.6 * tall), (0.1, 0.09, 0.13))
    b.ellipsoid(Material.CLOTH, varied(rng, ((0.15, 0.1, 0.07),)), (-0.02, 0, 1.65 * tall), (0.105, 0.1, 0.1))
    return b.build()


def cyclist(rng: np.random.Generator) -> Primitives:
    """A person on a bicycle."""
    b = Builder(rng)
    coat = varied(rng, _CLOTHES)
    for x in (0.5, -0.5):
        b.ellipsoid(Material.WHEEL, (0.1, 0.1, 0.1), (x, 0, 0.34), (0.34, 0.03, 0.34))
    b.box(Material.PLAIN, varied(rng, _CAR_COLOURS), (0, 0, 0.5), (0.9, 0.05, 0.3))
    b.ellipsoid(Material.CLOTH, varied(rng, _CLOTHES), (-0.05, 0, 0.75), (0.18, 0.16, 0.35))
    b.ellipsoid(Material.CLOTH, coat, (0.05, 0, 1.22), (0.2, 0.2, 0.36))
    b.ellipsoid(Material.CLOTH, (0.75, 0.58, 0.48), (0.15, 0, 1.65), (0.11, 0.09, 0.14))
    return b.build()


def tree(rng: np.random.Generator) -> Primitives:
    """A trunk and a crown of a few ellipsoids, or a cypress."""
    b = Builder(rng)
    green = varied(rng, ((0.3, 0.4, 0.17), (0.24, 0.34, 0.15), (0.42, 0.46, 0.2), (0.5, 0.4, 0.18)), 0.04)
    trunk, radius = rng.uniform(2.2, 3.3), rng.uniform(0.1, 0.26)
    bark = varied(rng, ((0.35, 0.29, 0.23), (0.42, 0.39, 0.35)))
    if rng.random() < 0.15:
        height = rng.uniform(4, 8)
        b.cylinder(Material.BARK, bark, (0, 0, 0), 0.12, 1.0)
        b.ellipsoid(Material.FOLIAGE, green, (0, 0, height / 2 + 0.4), (0.9, 0.9, height / 2))
        return b.build()
    spread = rng.uniform(1.3, 2.8)
    b.cylinder(Material.BARK, bark, (0, 0, 0), radius, trunk + spread)
    for _ in range(int(rng.integers(4, 7))):
        x, y = rng.normal(0, 0.42 * spread, 2)
        flat, tall = spread * rng.uniform(0.55, 0.9), spread * rng.uniform(0.45, 0.75)
        z = trunk + 0.9 * tall + spread * rng.uniform(0, 0.9)  # cars pass under the crown
        shade = rng.uniform(0.85, 1.1)
        leaf = (green[0] * shade, green[1] * shade, green[2] * shade)
        b.ellipsoid(Material.FOLIAGE, leaf, (x, y, z), (flat, flat * rng.uniform(0.8, 1.1), tall))
    return b.build()


def bush(rng: np.random.Generator) -> Primitives:
    """A low shrub."""
    b = Builder(rng)
    green = varied(rng, ((0.28, 0.38, 0.16), (0.36, 0.4, 0.2)), 0.05)
    for _ in range(2):
        x, y = rng.normal(0, 0.4, 2)
        wide = rng.uniform(0.5, 1.1)
        b.ellipsoid(Material.FOLIAGE, green, (x, y, 0.4), (wide, wide * 0.8, rng.uniform(0.5, 0.9)))
    return b.build()


def street_lamp(rng: np.random.Generator) -> Primitives:
    """A lamp post whose arm reaches towards +y."""
    b = Builder(rng)
    height, reach = rng.uniform(5, 9), rng.uniform(0.8, 2.0)
    grey = varied(rng, ((0.5, 0.52, 0.52), (0.2, 0.25, 0.22)))
    b.cylinder(Material.PLAIN, grey, (0, 0, 0), 0.08, height)
    b.box(Material.PLAIN, grey, (0, reach / 2, height), (0.08, reach, 0.08))
    b.box(Material.PLAIN, (0.8, 0.8, 0.78), (0, reach, height - 0.05), (0.25, 0.6, 0.12))
    return b.build()


def traffic_sign(rng: np.random.Generator) -> Primitives:
    """A sign that faces −x, towards oncoming drivers."""
    b = Builder(rng)
    colour = varied(rng, ((0.8, 0.1, 0.1), (0.1, 0.25, 0.7), (0.9, 0.75, 0.1), (0.9, 0.9, 0.9)), 0.03)
    height, side = rng.uniform(1.8, 2.5), rng.uniform(0.5, 0.8)
    b.cylinder(Material.PLAIN, (0.6, 0.6, 0.6), (0, 0, 0), 0.035, height + side)
    b.box(Material.SIGN, colour, (-0.06, 0, height), (0.03, side, side * rng.choice([1.0, 1.0, 1.4])))
    return b.build()


def traffic_light(rng: np.random.Generator) -> Primitives:
    """A signal on a post, facing −x."""
    b = Builder(rng)
    b.cylinder(Material.PLAIN, (0.35, 0.36, 0.36), (0, 0, 0), 0.07, 3.3)
    b.box(Material.PLAIN, (0.08, 0.08, 0.08), (-0.12, 0, 2.4), (0.2, 0.32, 0.95))
    lit = int(rng.integers(3))
    for index, colour in enumerate(((0.1, 0.9, 0.4), (0.9, 0.7, 0.1), (0.95, 0.12, 0.1))):
        shown = colour if index == lit else (0.1, 0.08, 0.07)
        b.ellipsoid(Material.LAMP, shown, (-0.22, 0, 2.55 + 0.31 * index), (0.04, 0.1, 0.1))
    return b.build()


def bin_or_box(rng: np.random.Generator) -> Primitives:
    """A litter bin, wheelie bin, junction box or advertising column."""
    b = Builder(rng)
    kind = rng.integers(3)
    if kind == 0:
        b.cylinder(Material.PLAIN, varied(rng, ((0.25, 0.3, 0.25),)), (0, 0, 0), 0.25, 0.9)
    elif kind == 1:
        colour = varied(rng, ((0.2, 0.35, 0.2), (0.3, 0.3, 0.32), (0.55, 0.45, 0.1), (0.15, 0.2, 0.4)))
        b.box(Material.PLAIN, colour, (0, 0, 0), (0.6, 0.75, 1.1))
    else:
        b.cylinder(Material.PICTURE, (0.8, 0.75, 0.65), (0, 0, 0), 0.6, 2.8)
    return b.build()


def house(rng: np.random.Generator, length: float, depth: float) -> Primitives:
    """A house with a gabled roof; its front faces −y, its middle is the origin."""
    b = Builder(rng)
    height = rng.uniform(2.8, 6.5)
    b.box(Material.FACADE, varied(rng, _FACADES), (0, 0, 0), (length, depth, height))
    tiles = varied(rng, ((0.55, 0.3, 0.22), (0.4, 0.3, 0.27), (0.33, 0.33, 0.36)))
    hip = rng.choice([0.0, 0.35])
    b.box(
        Material.ROOF,
        tiles,
        (0, 0, height),
        (length + 0.5, depth + 0.7, rng.uniform(0.3, 0.5) * depth),
        taper=(hip, 1.0),
    )
    if rng.random() < 0.6:
        b.box(
            Material.BRICK, (0.55, 0.33, 0.27), (length * rng.uniform(-0.3, 0.3), 0.4, height), (0.6, 0.6, 0.5 * depth)
        )
    return b.build()


def block(rng: np.random.Generator, length: float, depth: float) -> Primitives:
    """A block of flats, shops or offices; its front faces −y."""
    b = Builder(rng)
    height = rng.uniform(7, 22)
    b.box(Material.FACADE, varied(rng, _FACADES), (0, 0, 0), (length, depth, height))
    if rng.random() < 0.4:
        b.box(Material.ROOF, (0.4, 0.28, 0.24), (0, 0, height), (length + 0.2, depth, 3.5), taper=(0.0, 0.7))
    elif rng.random() < 0.5:
        b.box(Material.PLAIN, (0.5, 0.5, 0.5), (0, 0, height), (length * 0.3, depth * 0.4, 2.2))
    storey = rng.uniform(2.8, 3.4)
    if rng.random() < 0.35:
        for level in range(1, int(height / storey)):
            b.box(Material.PLAIN, (0.7, 0.7, 0.68), (length * 0.2, -depth / 2 - 0.5, level * storey), (3, 1, 1.0))
    return b.build()


def barrier(rng: np.random.Generator, length: float) -> Primitives:
    """A hedge, brick wall, fence or concrete wall along x."""
    b = Builder(rng)
    kind = rng.integers(4)
    if kind == 0:
        b.box(Material.FOLIAGE, varied(rng, ((0.27, 0.37, 0.16),)), (0, 0, 0), (length, 0.8, rng.uniform(0.8, 2.2)))
    elif kind == 1:
        b.box(
            Material.BRICK,
            varied(rng, ((0.6, 0.35, 0.27), (0.6, 0.55, 0.48))),
            (0, 0, 0),
            (length, 0.3, rng.uniform(0.8, 2.4)),
        )
    elif kind == 2:
        b.box(
            Material.FENCE,
            varied(rng, ((0.5, 0.4, 0.3), (0.85, 0.85, 0.83))),
            (0, 0, 0),
            (length, 0.08, rng.uniform(0.8, 1.9)),
        )
    else:
        b.box(Material.PLAIN, varied(rng, ((0.6, 0.6, 0.57),)), (0, 0, 0), (length, 0.35, rng.uniform(0.7, 2.8)))
    return b.build()


def guard_rail(rng: np.random.Generator, length: float) -> Primitives:
    """A steel guard rail along x."""
    b = Builder(rng)
    b.box(Material.PLAIN, (0.66, 0.67, 0.68), (0, 0, 0.45), (length, 0.12, 0.3))
    for x in (-length / 4, length / 4):
        b.box(Material.PLAIN, (0.5, 0.5, 0.5), (x, 0, 0), (0.1, 0.1, 0.5))
    return b.build()


PAVEMENT_THINGS: tuple[tuple[Callable[[np.random.Generator], Primitives], float], ...] = (
    (tree, 0.3),
    (street_lamp, 0.2),
    (traffic_sign, 0.18),
    (bin_or_box, 0.12),
    (pedestrian, 0.2),
)
"""What stands along a pavement, with its share."""
