"""Surface textures: colour, LiDAR reflectance and gloss of every material.

A texture takes `Patch`, the hit points of one material, and returns their `Look`. The LiDAR's 905 nm light sees
vegetation, paint marks and retro-reflecting signs bright, and asphalt, rubber and glass dark.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.noise import fraction, noise, sharpness
from simipu_core.synthetic.raycast import Surface
from simipu_core.synthetic.scene import Floats, Ints, Look, Mask, Material, Scene


@dataclass(frozen=True)
class Patch:
    """M points of one material."""

    local: Floats
    """(3, M) position in the solid's own axes about its centre, metres."""
    half: Floats
    """(3, M) half extents of the solid."""
    face: Ints
    """(M,) as in `Surface`."""
    colour: Floats
    """(3, M) the solid's linear RGB."""
    seed: Floats
    """(M,) the solid's seed."""
    footprint: Floats
    """(M,) metres that a pixel covers there."""

    @property
    def height(self) -> Floats:
        """(M,) metres above the solid's base."""
        return np.asarray(self.local[2] + self.half[2])

    @property
    def along(self) -> Floats:
        """(M,) horizontal position on the face."""
        return np.asarray(np.where(self.face < 2, self.local[1], self.local[0]))

    @property
    def breadth(self) -> Floats:
        """(M,) half width of the face."""
        return np.asarray(np.where(self.face < 2, self.half[1], self.half[0]))

    def grain(self, scale: float) -> Floats:
        """(M,) noise on the face, different for each solid."""
        up = np.where(self.face < 4, self.local[2], self.local[1])
        return noise(self.along + self.seed * 97, up + self.seed * 61, scale)


def look_of(scene: Scene, at: Surface, footprint: Floats) -> Look:
    """Texture M hit points.

    Args:
        scene: the world.
        at: the hits.
        footprint: (M,) metres that a pixel covers at each; 0 for a LiDAR pulse.
    """
    solids = scene.solids
    look = Look(np.zeros_like(at.point), np.zeros_like(at.point[0]), np.zeros_like(at.point[0]))
    material = solids.material[at.solid]
    half, colour = solids.half.T.astype(np.float32), solids.colour.T
    for name in np.unique(material).tolist():
        which = np.flatnonzero(material == name)
        solid = at.solid[which]
        if name == Material.GROUND:
            part = scene.ground(at.point[0, which], at.point[1, which], footprint[which])
        else:
            part = _TEXTURES[Material(name)](
                Patch(
                    at.local[:, which],
                    half[:, solid],
                    at.face[which],
                    colour[:, solid],
                    solids.seed[solid],
                    footprint[which],
                )
            )
        look.albedo[:, which] = part.albedo
        look.reflectance[which] = part.reflectance
        look.gloss[which] = part.gloss
    return look


class _Paint:
    """A look under construction: a base, then layers over parts of it."""

    def __init__(self, patch: Patch, reflectance: float, gloss: float = 0.0) -> None:
        self.albedo = patch.colour.copy()
        self.reflectance = np.full_like(patch.seed, reflectance)
        self.gloss = np.full_like(patch.seed, gloss)

    def shade(self, factor: Floats) -> None:
        self.albedo *= factor
        self.reflectance *= np.sqrt(np.maximum(factor, 0))

    def layer(
        self, mask: Floats | Mask, colour: tuple[float, float, float], reflectance: float, gloss: float = 0.0
    ) -> None:
        """Cover where `mask` (0–1 or boolean) is set with a linear colour."""
        cover = mask.astype(np.float32)
        for channel, value in zip(self.albedo, colour, strict=True):
            channel += cover * (value - channel)
        self.reflectance += cover * (reflectance - self.reflectance)
        self.gloss += cover * (gloss - self.gloss)

    def look(self) -> Look:
        return Look(self.albedo, self.reflectance, self.gloss)


def _brightness(colour: Floats) -> Floats:
    return np.asarray(colour.mean(axis=0))


def _plain(p: Patch) -> Look:
    paint = _Paint(p, 0.0, 0.05)
    paint.reflectance += 0.12 + 0.45 * _brightness(p.colour)
    paint.shade(1 + 0.08 * p.grain(20))
    return paint.look()


def _car_body(p: Patch) -> Look:
    paint = _Paint(p, 0.0, 0.55)
    paint.reflectance += 0.1 + 0.5 * np.sqrt(_brightness(p.colour))
    height, along, breadth = p.height, p.along, p.breadth
    upright = p.face < 4
    end = p.face < 2
    side = (p.face == 2) | (p.face == 3)
    share = height / (2 * p.half[2])
    paint.layer(upright & (share < 0.22), (0.015, 0.015, 0.017), 0.06, 0.1)
    seam = np.abs(fraction((p.local[0] / p.half[0] + 0.1) * 1.6) - 0.5) < 0.02
    paint.layer(side & seam & (share > 0.25), (0.02, 0.02, 0.02), 0.06)
    paint.layer(side & (np.abs(share - 0.8) < 0.03), (0.05, 0.05, 0.05), 0.1)
    lamp = end & (np.abs(along) > 0.62 * breadth) & (np.abs(share - 0.68) < 0.16)
    paint.layer(lamp & (p.face == 0), (0.85, 0.85, 0.8), 0.7, 0.5)
    paint.layer(lamp & (p.face == 1), (0.45, 0.01, 0.015), 0.8, 0.5)
    paint.layer((p.face == 0) & (np.abs(along) < 0.5 * breadth) & (np.abs(share - 0.62) < 0.12), (0.02,) * 3, 0.08, 0.2)
    plate = end & (np.abs(along) < 0.28) & (np.abs(height - 0.32) < 0.07)
    paint.layer(plate, (0.8, 0.8, 0.75), 0.97)
    return paint.look()


def _car_cabin(p: Patch) -> Look:
    paint = _Paint(p, 0.0, 0.5)
    paint.reflectance += 0.1 + 0.5 * np.sqrt(_brightness(p.colour))
    share = p.height / (2 * p.half[2])
    inner = p.breadth - np.where(p.face < 2, 0.1, 0.16) - 0.1 * share
    pillar = (p.face >= 2) & (np.abs(p.local[0] + 0.1 * p.half[0]) < 0.06)
    pane = (p.face < 4) & (share > 0.08) & (share < 0.86) & (np.abs(p.along) < inner) & ~pillar
    paint.layer(pane, (0.012, 0.016, 0.02), 0.03, 1.0)
    return paint.look()


def _wheel(p: Patch) -> Look:
    paint = _Paint(p, 0.05)
    radius = np.hypot(p.local[0], p.local[2]) / p.half[0]
    spokes = 0.5 + 0.5 * np.cos(5 * np.arctan2(p.local[2], p.local[0]))
    paint.layer((radius < 0.62) * (0.35 + 0.65 * spokes), (0.3, 0.3, 0.32), 0.35, 0.2)
    return paint.look()


def _facade(p: Patch) -> Look:
    paint = _Paint(p, 0.0)
    paint.reflectance += 0.15 + 0.4 * _brightness(p.colour)
    paint.shade(1 + 0.16 * p.grain(4))
    height, storey = p.height, 2.8 + 0.7 * fraction(p.seed * 7)
    wide = 1.8 + 1.8 * fraction(p.seed * 13)
    level = np.floor(height / storey)
    column = np.floor(p.along / wide)
    x, y = fraction(p.along / wide) - 0.5, fraction(height / storey)
    half_pane = 0.2 + 0.14 * fraction(p.seed * 29)
    upright = p.face < 4
    edge = np.abs(p.along) > p.breadth - 0.5
    opening = upright & ~edge & (height < 2 * p.half[2] - 0.5)
    framed = opening & (np.abs(x) < half_pane + 0.035) & (y > 0.27) & (y < 0.83) & (level > 0)
    pane = framed & (np.abs(x) < half_pane) & (y > 0.3) & (y < 0.8) & (np.abs(x) > 0.015)
    clear = sharpness(p.footprint, 1.2)
    paint.layer(upright & (y < 0.06) & (level > 0), (0.3, 0.29, 0.27), 0.35)
    paint.layer(framed, (0.55, 0.54, 0.5), 0.45)
    lit = noise(column + p.seed * 311, level + p.seed * 177, 7.0)
    paint.layer(pane & (lit < 0.35), (0.018, 0.022, 0.03), 0.04, 0.9)
    paint.layer(pane & (lit >= 0.35), (0.25, 0.23, 0.2), 0.1, 0.4)
    shop = fraction(p.seed * 41) > 0.5
    ground_floor = opening & (level == 0)
    paint.layer(ground_floor & shop & (np.abs(x) < 0.44) & (y > 0.12) & (y < 0.8), (0.03, 0.03, 0.035), 0.05, 0.8)
    sign = ground_floor & shop & (y > 0.84)
    hue = fraction(p.seed * 5)
    for channel, offset in enumerate((0.0, 1 / 3, 2 / 3)):
        tone = (0.15 + 0.4 * np.abs(2 * fraction(hue + offset) - 1)).astype(np.float32)
        paint.albedo[channel] = np.where(sign, tone, paint.albedo[channel])
    door = ground_floor & ~shop & (fraction(column * 0.5) < 0.25) & (np.abs(x) < 0.26) & (y < 0.75)
    paint.layer(door, (0.07, 0.04, 0.025), 0.2)
    low = ground_floor & ~shop & ~door & (np.abs(x) < half_pane) & (y > 0.32) & (y < 0.78) & (column % 2 != 0)
    paint.layer(low, (0.02, 0.024, 0.03), 0.04, 0.9)
    paint.layer(upright & (height < 0.5), (0.12, 0.12, 0.12), 0.25)
    paint.layer(p.face == 4, (0.12, 0.11, 0.11), 0.2)
    blurred = (1 - clear) * upright
    paint.albedo += blurred * 0.55 * (p.colour * 0.75 - paint.albedo)
    return paint.look()


def _roof(p: Patch) -> Look:
    paint = _Paint(p, 0.28)
    sloping = (p.face == 2) | (p.face == 3)
    rows = 0.82 + 0.18 * (fraction(p.local[2] * 4) > 0.25)
    tiles = np.where(sloping, 1 + (rows - 1) * sharpness(p.footprint, 0.3), 1)
    paint.shade((tiles * (1 + 0.2 * p.grain(8))).astype(np.float32))
    paint.layer((p.face < 2) & ~sloping, (0.5, 0.47, 0.42), 0.4)
    return paint.look()


def _bark(p: Patch) -> Look:
    paint = _Paint(p, 0.3)
    angle = np.arctan2(p.local[1], p.local[0])
    paint.shade(1 + 0.45 * noise(angle * 3 + p.seed * 50, p.local[2], 6))
    return paint.look()


def _foliage(p: Patch) -> Look:
    paint = _Paint(p, 0.5)
    x, y, z = p.local
    clumps = noise(x + 0.6 * z + p.seed * 83, y - 0.7 * z + p.seed * 47, 9)
    leaves = noise(x * 1.7 - z + p.seed * 31, y * 1.3 + z, 60) * sharpness(p.footprint, 0.15)
    paint.shade(np.clip(1 + 0.55 * clumps + 0.35 * leaves, 0.15, 2).astype(np.float32))
    return paint.look()


def _brick(p: Patch) -> Look:
    paint = _Paint(p, 0.3)
    row = np.floor(p.height / 0.14)
    joint = (fraction(p.height / 0.14) < 0.12) | (fraction(p.along / 0.42 + 0.5 * row) < 0.05)
    brick = noise(row + p.seed * 71, np.floor(p.along / 0.42 + 0.5 * row), 3.0)
    clear = sharpness(p.footprint, 0.25)
    paint.shade((1 + 0.25 * brick * clear + 0.12 * p.grain(3)).astype(np.float32))
    paint.layer(joint * clear * (p.face < 4), (0.35, 0.33, 0.3), 0.3)
    paint.layer(p.face == 4, (0.3, 0.29, 0.27), 0.3)
    return paint.look()


def _sign(p: Patch) -> Look:
    paint = _Paint(p, 0.95)
    rim = np.maximum(np.abs(p.along) / p.breadth, np.abs(p.local[2]) / p.half[2])
    paint.layer((rim > 0.82) & (p.face < 4), (0.75, 0.75, 0.75), 0.98)
    mark = (rim < 0.6) & (np.abs(fraction(p.along / p.breadth * (1 + 2 * fraction(p.seed * 9))) - 0.5) < 0.18)
    paint.layer(mark & (p.face < 4), (0.7, 0.7, 0.7), 0.98)
    paint.layer(p.face == 0, (0.2, 0.2, 0.2), 0.3)
    return paint.look()


def _fence(p: Patch) -> Look:
    paint = _Paint(p, 0.35)
    boards = 0.75 + 0.25 * (fraction(p.along / 0.15) > 0.15)
    fade = sharpness(p.footprint, 0.15)
    paint.shade((1 + (boards - 1) * fade + 0.15 * p.grain(5)).astype(np.float32))
    return paint.look()


def _cloth(p: Patch) -> Look:
    paint = _Paint(p, 0.4)
    weave = noise(p.local[0] * 2 + p.local[1] + p.seed * 40, p.local[2] + p.local[1] + p.seed * 20, 40)
    stripes = (fraction((p.local[0] + p.local[1]) * (2 + 6 * fraction(p.seed * 17))) > 0.5) & (p.seed > 0.65)
    paint.shade((1 + 0.14 * weave - 0.25 * stripes).astype(np.float32))
    return paint.look()


def _room_wall(p: Patch) -> Look:
    paint = _Paint(p, 0.6)
    stripes = (fraction(p.along / 0.3) > 0.5) * (fraction(p.seed * 11) > 0.7)
    paint.shade((1 + 0.05 * p.grain(12) - 0.1 * stripes).astype(np.float32))
    paint.layer((p.height < 0.1) & (p.face < 4), (0.6, 0.58, 0.55), 0.5)
    return paint.look()


def _wood(p: Patch) -> Look:
    paint = _Paint(p, 0.35, 0.1)
    longest = p.half[0] > p.half[1]
    u, v = np.where(longest, p.local[0], p.local[1]), np.where(longest, p.local[1], p.local[0])
    paint.shade(1 + 0.25 * noise(u * 0.12 + p.seed * 9, v + p.local[2] + p.seed * 31, 60))
    return paint.look()


def _picture(p: Patch) -> Look:
    paint = _Paint(p, 0.4, 0.1)
    u, v = p.along / p.breadth, p.local[2] / p.half[2]
    for channel in range(3):
        blobs = noise(u + p.seed * (40 + 9 * channel), v + p.seed * 71, 30)
        paint.albedo[channel] *= np.clip(0.9 + blobs, 0.1, 2)
    rim = np.maximum(np.abs(u), np.abs(v))
    paint.layer((rim > 0.72) & (rim < 0.9), (0.75, 0.74, 0.7), 0.5)
    paint.layer(rim >= 0.9, (0.05, 0.035, 0.02), 0.2)
    return paint.look()


def _pane(p: Patch) -> Look:
    paint = _Paint(p, 0.05, 0.3)
    u, v = np.abs(p.along) / p.breadth, np.abs(p.local[2]) / p.half[2]
    paint.albedo *= 1 + 0.5 * p.local[2] / p.half[2]
    paint.layer((np.maximum(u, v) > 0.92) | (u < 0.04), (0.7, 0.7, 0.68), 0.5)
    return paint.look()


def _books(p: Patch) -> Look:
    paint = _Paint(p, 0.35)
    shelf = np.floor(p.height / 0.34)
    x, y = p.along / 0.045, fraction(p.height / 0.34)
    spine = np.floor(x + 0.6 * noise(shelf + p.seed * 50, np.floor(x / 4), 5))
    for channel in range(3):
        tone = noise(spine * 3 + p.seed * 33 + 41 * channel, shelf * 5 + 17 * channel, 11.0)
        shown = (p.face < 4) & (y > 0.1)
        paint.albedo[channel] = np.where(shown, np.clip(0.16 + 0.22 * tone, 0.01, 1), paint.albedo[channel])
    tall = 0.72 + 0.2 * noise(spine + p.seed * 20, shelf, 9.0)
    paint.layer((p.face < 4) & (y > tall), (0.02, 0.015, 0.01), 0.1)
    return paint.look()


def _lamp(p: Patch) -> Look:
    return _Paint(p, 0.6).look()


_TEXTURES: dict[Material, Callable[[Patch], Look]] = {
    Material.PLAIN: _plain,
    Material.CAR_BODY: _car_body,
    Material.CAR_CABIN: _car_cabin,
    Material.WHEEL: _wheel,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.BARK: _bark,
    Material.FOLIAGE: _foliage,
    Material.BRICK: _brick,
    Material.SIGN: _sign,
    Material.FENCE: _fence,
    Material.CLOTH: _cloth,
    Material.ROOM_WALL: _room_wall,
    Material.WOOD: _wood,
    Material.PICTURE: _picture,
    Material.PANE: _pane,
    Material.BOOKS: _books,
    Material.LAMP: _lamp,
}
