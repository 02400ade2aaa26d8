"""The road: an arc of constant curvature with lanes, marks and pavements."""

from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.noise import fraction, noise, sharpness
from simipu_core.synthetic.scene import Floats, Look, Mask

KERB = 0.18
"""Width of the kerb stone, metres."""


@dataclass(frozen=True)
class Road:
    """A road through the world's origin, heading along x there.

    Positions on it are (station, offset): metres along the centre line, metres to the left of it.
    """

    curvature: float
    """1/metres, positive to the left; never 0."""
    lane_width: float
    lanes: int
    """Lanes in each direction."""
    parking: tuple[float, float]
    """Width of the parking strip left and right, metres; 0 = none."""
    pavement: tuple[float, float]
    """Width of the pavement left and right, metres; 0 = none."""
    verge: str
    """What lies beyond: grass, paving or gravel."""
    crossing: float | None
    """Station of a side road's centre, if there is one."""
    zebra: float | None
    """Station of a zebra crossing, if there is one."""
    tone: float
    """Brightness of the asphalt, linear."""
    seed: float
    edge_lines: bool
    centre_line: str
    """dashed, solid or none."""

    @property
    def half_width(self) -> float:
        """Metres from the centre line to the end of the driving lanes."""
        return self.lane_width * self.lanes

    def edge(self, side: int) -> float:
        """Metres from the centre line to the kerb on the left (side 0) or right (1)."""
        return self.half_width + self.parking[side]

    def place(self, station: float, offset: float) -> tuple[float, float, float]:
        """World x, y and heading of a position on the road."""
        angle = self.curvature * station
        radius = 1 / self.curvature - offset
        return float(np.sin(angle) * radius), float(1 / self.curvature - np.cos(angle) * radius), float(angle)

    def locate(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(station, offset) of world positions."""
        radius = 1 / self.curvature
        sign = 1.0 if radius > 0 else -1.0
        distance = np.sqrt(x * x + (y - radius) ** 2)
        station = np.arctan2(sign * x, sign * (radius - y)) * radius
        return np.asarray(station), np.asarray(radius - sign * distance)

    def texture(self, x: Floats, y: Floats, footprint: Floats) -> Look:
        """Look of the ground; see `scene.GroundTexture`."""
        station, offset = self.locate(x, y)
        albedo, reflectance = _verge(self.verge, x, y, footprint)
        side = np.abs(offset)
        edge = np.where(offset > 0, self.edge(0), self.edge(1))
        pavement = np.where(offset > 0, self.pavement[0], self.pavement[1])
        inside = side - edge

        def cover(mask: Floats | Mask, colour: Floats | float, refl: float) -> None:
            nonlocal albedo, reflectance
            albedo = albedo + mask * (colour - albedo)
            reflectance = reflectance + mask * (refl - reflectance)

        paved = (inside < pavement) & (pavement > 0)
        joints = (fraction(station / 0.6) < 0.04) | (fraction(side / 0.6) < 0.04)
        slab = 0.2 + 0.03 * noise(np.floor(station / 0.6), np.floor(side / 0.6), 9) + 0.03 * noise(x, y, 3)
        slab = slab - 0.07 * joints * sharpness(footprint, 0.08)
        cover(paved, slab * np.array([[1.02], [1.0], [0.95]], np.float32), 0.3)
        has_kerb = pavement > 0
        kerb_stone = has_kerb & (inside >= 0) & (inside < KERB)
        cover(kerb_stone, 0.3 - 0.1 * (fraction(station) < 0.03) * sharpness(footprint, 0.1), 0.35)

        asphalt = inside < 0
        side_road = np.zeros_like(asphalt)
        if self.crossing is not None:
            side_road = np.abs(station - self.crossing) < self.lane_width + 0.5
            asphalt = asphalt | side_road
        shade = self._asphalt(x, y, station, offset, footprint)
        cover(asphalt, shade * np.array([[1.0], [1.0], [1.03]], np.float32), 0.13)
        for mark, width in self._marks(station, offset, side_road):
            worn = 0.8 + 0.25 * noise(x + 9, y, 5)
            cover(np.clip(mark * worn * sharpness(footprint, 3 * width), 0, 1), 0.62, 0.8)
        return Look(
            np.asarray(albedo, np.float32),
            np.clip(np.asarray(reflectance * (1 + 0.12 * noise(x, y, 8)), np.float32), 0.02, 1),
            np.zeros_like(footprint),
        )

    def _asphalt(self, x: Floats, y: Floats, station: Floats, offset: Floats, footprint: Floats) -> Floats:
        tone = self.tone * (1 + 0.18 * noise(x + 50 * self.seed, y, 1.5))
        tone = tone * (1 + 0.22 * noise(x, y + 31, 45) * sharpness(footprint, 0.12))
        lane = fraction(offset / self.lane_width)
        tracks = np.exp(-(((np.abs(lane - 0.5) - 0.24) / 0.09) ** 2))
        tone = tone * (1 - 0.13 * tracks)
        patch = noise(np.floor(station / 7), np.floor(offset / 1.7) + 40 * self.seed, 13.0)
        tone = tone * np.where(patch > 0.62, 0.72, np.where(patch < -0.7, 1.2, 1.0))
        crack = np.abs(noise(x + 70, y + 5, 3) + 0.4 * noise(y, x, 15)) < 0.012
        tone = tone * (1 - 0.35 * crack * sharpness(footprint, 0.08))
        cover = np.hypot(fraction(station / 23) * 23 - 4, offset - 0.45 * self.lane_width) < 0.36
        return np.asarray(tone * (1 - 0.5 * cover))

    def _marks(self, station: Floats, offset: Floats, side_road: Mask) -> list[tuple[Mask, float]]:
        """Painted marks and their widths in metres."""
        clear = ~side_road
        if self.zebra is not None:
            clear = clear & (np.abs(station - self.zebra) > 3.2)
        dashes = fraction((station + 9 * self.seed) / 9) < 0.4
        marks = []
        if self.centre_line != "none":
            broken = dashes if self.centre_line == "dashed" else True
            marks.append((clear & (np.abs(offset) < 0.08) & broken, 0.16))
        dividers = [np.abs(np.abs(offset) - lane * self.lane_width) < 0.08 for lane in range(1, self.lanes)]
        marks += [(clear & divider & dashes, 0.16) for divider in dividers]
        if self.edge_lines:
            marks.append((clear & (np.abs(np.abs(offset) - self.half_width + 0.2) < 0.08), 0.16))
        for side in (0, 1):
            if self.parking[side]:
                there = offset if side == 0 else -offset
                marks.append((clear & (np.abs(there - self.half_width) < 0.06) & (fraction(station / 2) < 0.5), 0.12))
        if self.zebra is not None:
            across = (np.abs(station - self.zebra) < 1.8) & (np.abs(offset) < self.half_width)
            marks.append((across & (fraction(offset) < 0.5), 0.5))
            stop = (np.abs(station - self.zebra + 2.8) < 0.2) & (offset < 0) & (offset > -self.half_width)
            marks.append((stop, 0.4))
        return marks


def _verge(kind: str, x: Floats, y: Floats, footprint: Floats) -> tuple[Floats, Floats]:
    coarse, fine = noise(x, y, 1.2), noise(x + 17, y + 3, 30) * sharpness(footprint, 0.15)
    tone = (1 + 0.3 * coarse + 0.3 * fine).astype(np.float32)
    colour, reflectance = {
        "grass": ((0.075, 0.12, 0.03), 0.5),
        "paving": ((0.19, 0.18, 0.165), 0.3),
        "gravel": ((0.22, 0.19, 0.15), 0.35),
    }[kind]
    albedo = np.array(colour, np.float32)[:, None] * tone
    if kind == "grass":
        dry = np.clip(noise(x + 200, y, 0.6) - 0.2, 0, 1)
        albedo = albedo + dry * (np.array([[0.2], [0.17], [0.08]], np.float32) * tone - albedo)
    return albedo, np.full_like(x, reflectance)
