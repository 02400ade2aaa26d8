"""Streets: where things stand, what moves, how the sun shines, and the way of the car that carries the sensors."""

from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic import props
from simipu_core.synthetic.road import Road
from simipu_core.synthetic.scene import Builder, Colour, Floats, Light, Material, Primitives, Scene, join

SENSOR_HEIGHT = 1.73
"""Height of the LiDAR above the road, metres."""
FRAME_SECONDS = 0.1
"""Time between frames of a drive."""
_SIGHT = 130.0
"""Metres of street that are furnished ahead of the car."""
_BEHIND = 45.0
_FAR = 320.0


@dataclass(frozen=True)
class Mover:
    """Something that keeps its speed along the road."""

    shape: Primitives
    station: float
    offset: float
    speed: float
    """Metres per second, negative towards us."""
    heading: float
    """Radians against the road's direction."""


@dataclass(frozen=True)
class Street:
    """A street with a car that drives along it."""

    road: Road
    light: Light
    still: Primitives
    movers: tuple[Mover, ...]
    ego_speed: float
    ego_offset: float
    ego_wander: tuple[float, float, float]
    """Amplitudes of yaw, pitch and roll, radians."""

    def at(self, frame: int) -> tuple[Scene, Floats]:
        """The scene at a frame, and the (4, 4) float64 pose sensor_to_world."""
        time = frame * FRAME_SECONDS
        pose = self.pose(frame)
        moved = [
            mover.shape.placed(x, y, heading + mover.heading)
            for mover in self.movers
            for x, y, heading in [self.road.place(mover.station + mover.speed * time, mover.offset)]
        ]
        solids = join([self.still, *moved]).near(float(pose[0, 3]), float(pose[1, 3]), _FAR)
        return Scene(solids, self.light, self.road.texture), pose

    def pose(self, frame: float) -> Floats:
        """(4, 4) float64 sensor_to_world at a frame, or between frames."""
        time = frame * FRAME_SECONDS
        x, y, heading = self.road.place(self.ego_speed * time, self.ego_offset)
        yaw, pitch, roll = (
            amplitude * np.cos(rate * time + 7 * amplitude / 0.01)
            for amplitude, rate in zip(self.ego_wander, (0.7, 2.1, 1.6), strict=True)
        )
        pose = np.eye(4)
        pose[:3, :3] = _turn(2, heading + yaw) @ _turn(1, pitch) @ _turn(0, roll)
        pose[:3, 3] = x, y, SENSOR_HEIGHT
        return pose


def _turn(axis: int, angle: float) -> Floats:
    rotation = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation[[i, j], [i, j]] = np.cos(angle)
    rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
    return rotation


def make_street(rng: np.random.Generator, frames: int = 1) -> Street:
    """Draw a street long enough for a drive of so many frames."""
    style = str(rng.choice(["town", "suburb", "country", "highway"], p=[0.38, 0.36, 0.16, 0.1]))
    speed = {"town": 11.0, "suburb": 12.0, "country": 17.0, "highway": 20.0}[style] * rng.uniform(0.85, 1.15)
    travelled = speed * FRAME_SECONDS * (frames - 1)
    road, closed = _make_road(rng, style, travelled)
    end = travelled + _SIGHT
    parts = [_ground(rng), *_backdrop(rng, road, travelled)]
    for side in (0, 1):
        parts += _roadside(rng, road, style, side, end, closed)
    parts += _parked(rng, road, end)
    if closed is not None:
        parts += _closing_row(rng, road, closed)
    ego_offset = -road.lane_width * (road.lanes - 0.5) + rng.uniform(-0.35, 0.35)
    return Street(
        road=road,
        light=_make_light(rng),
        still=join(parts),
        movers=tuple(_traffic(rng, road, style, speed, ego_offset, end if closed is None else closed - 8)),
        ego_speed=speed,
        ego_offset=ego_offset,
        ego_wander=(rng.normal(0, 0.02), rng.normal(0, 0.007), rng.normal(0, 0.006)),
    )


def _make_road(rng: np.random.Generator, style: str, travelled: float) -> tuple[Road, float | None]:
    """The road, and the station where a row of houses closes it, if one does."""
    town, highway = style == "town", style == "highway"
    bend = min(
        rng.exponential({"town": 1 / 220, "suburb": 1 / 130, "country": 1 / 150, "highway": 1 / 500}[style]), 0.02
    )
    bend = min(bend, 1.5 / (travelled + _SIGHT))
    closed = travelled + rng.uniform(14, 55) if style in ("town", "suburb") and rng.random() < 0.22 else None
    crossing = closed if closed is not None else rng.uniform(8, travelled + 60) if rng.random() < 0.35 else None
    walked = style in ("town", "suburb")
    strip = [float(rng.choice([0.0, 2.2], p=[0.35, 0.65])) if walked else 0.0 for _ in range(2)]
    pavement = [rng.uniform(1.4, 4.0) if walked else 0.0 for _ in range(2)]
    road = Road(
        curvature=max(bend, 1e-4) * float(rng.choice([-1, 1])),
        lane_width=rng.uniform(3.4, 3.8) if highway else rng.uniform(2.7, 3.5),
        lanes=2 if highway or (town and rng.random() < 0.3) else 1,
        parking=(strip[0], strip[1]),
        pavement=(pavement[0], pavement[1]),
        verge=str(rng.choice(["paving", "grass", "gravel"], p=[0.6, 0.3, 0.1] if town else [0.1, 0.8, 0.1])),
        crossing=None if highway else crossing,
        zebra=rng.uniform(8, travelled + 45) if walked and rng.random() < 0.3 else None,
        tone=rng.uniform(0.07, 0.17),
        seed=rng.random(),
        edge_lines=not walked or bool(rng.random() < 0.3),
        centre_line=str(rng.choice(["dashed", "solid", "none"], p=[0.7, 0.15, 0.15])),
    )
    return road, closed


def _make_light(rng: np.random.Generator) -> Light:
    overcast = rng.random() < 0.35
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(65, 88) if overcast else rng.uniform(18, 65))
    sun = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    warm = 0.0 if overcast else float(np.clip(1.1 - elevation, 0, 0.8))
    power = rng.uniform(0.35, 0.7) if overcast else rng.uniform(2.2, 3.2)
    shade = rng.uniform(0.75, 1.05) if overcast else rng.uniform(0.55, 0.8)

    def tinted(colour: Colour, by: float) -> Colour:
        return (colour[0] * by, colour[1] * by, colour[2] * by)

    return Light(
        sun=(float(sun[0]), float(sun[1]), float(sun[2])),
        sun_colour=(power, power * (1 - 0.18 * warm), power * (1 - 0.45 * warm)),
        ambient_colour=tinted((0.95, 1.0, 1.08) if overcast else (0.78, 0.92, 1.2), shade),
        zenith=tinted((0.62, 0.66, 0.72) if overcast else (0.16, 0.32, 0.68), rng.uniform(0.85, 1.15)),
        horizon=tinted((0.82, 0.84, 0.86) if overcast else (0.72, 0.82, 0.92), rng.uniform(0.85, 1.1)),
        clouds=rng.uniform(0.6, 0.95) if overcast else rng.uniform(0.1, 0.6),
        haze_distance=rng.uniform(250, 1500),
    )


def _ground(rng: np.random.Generator) -> Primitives:
    b = Builder(rng)
    b.plane(Material.GROUND)
    return b.build()


def _backdrop(rng: np.random.Generator, road: Road, travelled: float) -> list[Primitives]:
    """Far woods and houses so that the horizon is not bare."""
    b = Builder(rng)
    for _ in range(14):
        angle, distance = rng.uniform(-1.1, 1.1), rng.uniform(140, 260)
        x, y, heading = road.place(travelled / 2, 0)
        x, y = x + distance * np.cos(heading + angle), y + distance * np.sin(heading + angle)
        if rng.random() < 0.65:
            wide = rng.uniform(12, 40)
            b.ellipsoid(Material.FOLIAGE, (0.27, 0.33, 0.18), (x, y, 0), (wide, wide, rng.uniform(6, 16)))
        else:
            size = (rng.uniform(10, 25), rng.uniform(10, 25), rng.uniform(6, 24))
            b.box(Material.FACADE, (0.65, 0.62, 0.57), (x, y, 0), size, yaw=rng.uniform(0, 3))
    return [b.build()]


def _put(road: Road, shape: Primitives, station: float, offset: float, turn: float = 0.0) -> Primitives:
    x, y, heading = road.place(station, offset)
    return shape.placed(x, y, heading + turn)


def _roadside(
    rng: np.random.Generator, road: Road, style: str, side: int, end: float, closed: float | None
) -> list[Primitives]:
    """One side of the street: pavement things, fences, buildings or trees, from the kerb outwards."""
    sign = 1 if side == 0 else -1
    facing = 0.0 if side == 0 else np.pi
    kerb, walk = road.edge(side), road.pavement[side]
    end = end if closed is None else min(end, closed - road.lane_width - 1)
    parts: list[Primitives] = []

    def blocked(station: float, reach: float) -> bool:
        return road.crossing is not None and abs(station - road.crossing) < reach + road.lane_width + 1.5

    if walk:
        chance = np.array([share for _, share in props.PAVEMENT_THINGS])
        station = -_BEHIND + rng.uniform(0, 8)
        gap = rng.uniform(3.5, 10)
        while station < end:
            thing = props.PAVEMENT_THINGS[rng.choice(len(chance), p=chance)][0]
            inset = rng.uniform(0.4, max(0.5, walk - 0.4)) if thing is props.pedestrian else 0.45
            turn = (
                facing + np.pi
                if thing is props.street_lamp
                else rng.choice([0, np.pi])
                if thing is props.pedestrian
                else 0
            )
            if not blocked(station, 0.5):
                parts.append(_put(road, thing(rng), station, sign * (kerb + inset), turn))
            station += gap * rng.uniform(0.5, 1.5)
    if road.crossing is not None and walk and rng.random() < 0.5:
        light = props.traffic_light(rng)
        parts.append(_put(road, light, road.crossing - road.lane_width - 1.2, sign * (kerb + 0.4)))

    front = kerb + walk
    built = {"town": rng.uniform(0.8, 1.0), "suburb": rng.uniform(0.4, 0.9), "country": 0.12, "highway": 0.1}[style]
    setback = {"town": rng.uniform(0.1, 2.5), "suburb": rng.uniform(2, 9), "country": rng.uniform(8, 20)}.get(
        style, 18.0
    )
    station = -_BEHIND
    while station < end:
        length = rng.uniform(8, 22) if style == "town" else rng.uniform(7, 14)
        if style == "highway":
            parts.append(_put(road, props.guard_rail(rng, 6.2), station, sign * (kerb + 1.2)))
            length = 6.0
        middle = station + length / 2
        if not blocked(middle, length / 2):
            if rng.random() < built:
                depth = rng.uniform(7, 12)
                building = props.block if style == "town" and rng.random() < 0.85 else props.house
                away = front + setback * rng.uniform(0.8, 1.2) + depth / 2
                parts.append(_put(road, building(rng, length, depth), middle, sign * away, facing))
            elif rng.random() < 0.75:
                away = front + rng.uniform(1.5, 14)
                parts.append(_put(road, props.tree(rng), middle, sign * away))
            if style in ("suburb", "country") and rng.random() < (0.7 if style == "suburb" else 0.15):
                parts.append(_put(road, props.barrier(rng, length * 0.98), middle, sign * (front + 0.5)))
            if style != "town" and rng.random() < 0.45:
                green = props.bush if rng.random() < 0.5 else props.tree
                parts.append(_put(road, green(rng), station, sign * (front + rng.uniform(1.6, 5))))
            if style == "country" and rng.random() < 0.35:
                parts.append(_put(road, props.traffic_sign(rng), station, sign * (kerb + 1.0)))
        station += length + (rng.exponential(1.0) if style == "town" else rng.uniform(1, 7) if style == "suburb" else 0)
    return parts


def _parked(rng: np.random.Generator, road: Road, end: float) -> list[Primitives]:
    parts = []
    for side, sign in ((0, 1), (1, -1)):
        if not road.parking[side]:
            continue
        share, station = rng.uniform(0.25, 0.95), -_BEHIND
        while station < end:
            near_crossing = road.crossing is not None and abs(station - road.crossing) < road.lane_width + 4
            if rng.random() < share and not near_crossing:
                offset = sign * (road.half_width + 1.1 + rng.normal(0, 0.08))
                turn = (0 if side else np.pi) + rng.normal(0, 0.02)
                parts.append(_put(road, props.car(rng), station, offset, turn))
            station += rng.uniform(5.4, 7.0)
    return parts


def _closing_row(rng: np.random.Generator, road: Road, station: float) -> list[Primitives]:
    """Buildings across the end of a T-junction."""
    parts = []
    offset = -42.0
    while offset < 42:
        length, depth = rng.uniform(9, 18), rng.uniform(8, 11)
        x, y, heading = road.place(station, offset + length / 2)
        away = road.lane_width + rng.uniform(2.5, 5) + depth / 2
        building = props.block if rng.random() < 0.6 else props.house
        x, y = x + away * np.cos(heading), y + away * np.sin(heading)
        parts.append(building(rng, length, depth).placed(x, y, heading - np.pi / 2))
        offset += length + rng.exponential(1.5)
    return parts


def _traffic(
    rng: np.random.Generator, road: Road, style: str, ego_speed: float, ego_offset: float, end: float
) -> list[Mover]:
    movers = []

    def vehicle() -> Primitives:
        return props.lorry(rng) if rng.random() < 0.12 else props.car(rng)

    spacing = rng.uniform(12, 60)
    for lane in range(road.lanes):
        middle = road.lane_width * (lane + 0.5)
        station = rng.uniform(6, spacing)
        while station < end:
            speed = -ego_speed * rng.uniform(0.95, 1.05)
            movers.append(Mover(vehicle(), station, middle + rng.normal(0, 0.15), speed, np.pi))
            station += 7 + rng.exponential(spacing)
        if abs(-middle - ego_offset) > 1.5:
            station = rng.uniform(-25, 15)
            while station < end:
                movers.append(Mover(vehicle(), station, -middle + rng.normal(0, 0.15), ego_speed, 0.0))
                station += 9 + rng.exponential(spacing)
    if rng.random() < 0.55:
        ahead = 7 + rng.exponential(14)
        if ahead < end:
            movers.append(Mover(vehicle(), ahead + 3, ego_offset + rng.normal(0, 0.2), ego_speed, 0.0))
    if style != "highway" and rng.random() < 0.25:
        ahead = rng.uniform(7, 25)
        offset = -road.half_width + 0.5
        movers.append(Mover(props.cyclist(rng), ahead, offset, ego_speed, 0.0))
    if road.crossing is not None and rng.random() < 0.6:
        movers.append(Mover(props.car(rng), road.crossing + 1.4, rng.uniform(-9, 9), 0.0, np.pi / 2))
    return movers
