"""Furnished rooms seen by a hand-held depth camera."""

from dataclasses import dataclass

import numpy as np

from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.furniture import AGAINST_WALLS, IN_THE_MIDDLE, Piece
from simipu_core.synthetic.noise import fraction, noise, sharpness
from simipu_core.synthetic.props import varied
from simipu_core.synthetic.scene import Builder, Colour, Floats, Light, Look, Material, Primitives, Scene, join

NYU_INTRINSICS = np.array([[518.8579, 0.0, 325.5824], [0.0, 519.4696, 253.7362], [0.0, 0.0, 1.0]])
"""The NYU colour camera, pixels."""
NYU_SIZE = (480, 640)
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Sensor axes (x forward, y left, z up) to camera axes (x right, y down, z forward)."""
_WALLS: tuple[Colour, ...] = (
    (0.88, 0.86, 0.8),
    (0.8, 0.82, 0.84),
    (0.85, 0.78, 0.65),
    (0.7, 0.76, 0.7),
    (0.9, 0.9, 0.9),
)


def nyu_camera() -> Camera:
    """The camera that looks along the sensor's x."""
    return Camera(NYU_INTRINSICS, AXES, NYU_SIZE)


@dataclass(frozen=True)
class Floor:
    """Boards, tiles or carpet."""

    kind: str
    colour: Colour
    size: tuple[float, float]
    """Length and width of the room, metres."""

    def texture(self, x: Floats, y: Floats, footprint: Floats) -> Look:
        """Look of the floor; see `scene.GroundTexture`."""
        if self.kind == "boards":
            row = np.floor(y / 0.12)
            joint = (fraction(y / 0.12) < 0.05) | (fraction(x / 1.3 + 0.37 * row) < 0.006)
            tone = 1 + 0.18 * noise(row, np.floor(x / 1.3 + 0.37 * row), 23) + 0.12 * noise(x * 0.1, y, 60)
        elif self.kind == "tiles":
            joint = (fraction(x / 0.35) < 0.03) | (fraction(y / 0.35) < 0.03)
            tone = 1 + 0.08 * noise(np.floor(x / 0.35), np.floor(y / 0.35), 17) + 0.05 * noise(x, y, 10)
        else:
            joint = np.zeros(x.shape, bool)
            tone = 1 + 0.12 * noise(x, y, 90) + 0.08 * noise(x, y, 6)
        tone = tone * (1 - 0.45 * joint * sharpness(footprint, 0.02))
        wall = np.minimum(self.size[0] / 2 - np.abs(x), self.size[1] / 2 - np.abs(y))
        tone = tone * (0.7 + 0.3 * np.clip(wall / 0.6, 0, 1))
        albedo = np.array(self.colour, np.float32)[:, None] ** 2.2 * tone
        gloss = np.full(x.shape, 0.0 if self.kind == "carpet" else 0.25, np.float32)
        return Look(albedo.astype(np.float32), np.full(x.shape, 0.3, np.float32), gloss)


def make_room(rng: np.random.Generator, views: int) -> list[tuple[Scene, Floats]]:
    """Furnish a room and walk a camera through it.

    Args:
        rng: source of the room.
        views: photographs to take.

    Returns:
        The scene and the (4, 4) sensor_to_world pose of each view.
    """
    length, width, height = rng.uniform(4.0, 8.0), rng.uniform(3.0, 5.5), rng.uniform(2.4, 2.9)
    parts = [_shell(rng, length, width, height)]
    taken: list[tuple[float, float, float, float]] = []
    spot = (rng.uniform(-0.42, -0.2) * length, rng.uniform(-0.25, 0.25) * width)
    reserved = (spot[0] - 0.9, spot[1] - 0.9, spot[0] + 1.5, spot[1] + 0.9)
    taken.append(reserved)
    for attempt in range(40):
        middle = attempt % 5 == 0
        pieces = IN_THE_MIDDLE if middle else AGAINST_WALLS
        piece = pieces[rng.integers(len(pieces))](rng)
        placed = _place(rng, piece, length, width, taken, middle)
        if placed is not None:
            parts.append(placed)
    colour = varied(rng, ((0.6, 0.45, 0.3), (0.45, 0.3, 0.2), (0.7, 0.68, 0.63), (0.5, 0.5, 0.52)))
    floor = Floor(str(rng.choice(["boards", "tiles", "carpet"])), colour, (length, width))
    scene = Scene(join(parts), _room_light(rng), floor.texture)
    yaw, stance = rng.normal(0, 0.35), rng.uniform(1.1, 1.6)
    poses = []
    for view in range(views):
        turn = yaw + (view - (views - 1) / 2) * rng.uniform(0.1, 0.3)
        x, y = spot[0] + 0.15 * view + rng.normal(0, 0.05), spot[1] + rng.normal(0, 0.1)
        poses.append((scene, _pose(x, y, stance, turn, rng.uniform(0.05, 0.35), rng.normal(0, 0.02))))
    return poses


def _pose(x: float, y: float, z: float, yaw: float, down: float, roll: float) -> Floats:
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(down), np.sin(down), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    tilt = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ pitch @ tilt
    pose[:3, 3] = x, y, z
    return pose


def _place(
    rng: np.random.Generator,
    piece: Piece,
    length: float,
    width: float,
    taken: list[tuple[float, float, float, float]],
    middle: bool,
) -> Primitives | None:
    """Put a piece against a wall or in the middle where there is room."""
    side = int(rng.integers(4))
    facing = (0.0, np.pi / 2, np.pi, -np.pi / 2)[side]
    along_x = side % 2 == 0
    dx, dy = (piece.depth, piece.width) if along_x else (piece.width, piece.depth)
    free_x, free_y = (length - dx) / 2 - 0.03, (width - dy) / 2 - 0.03
    if min(free_x, free_y) <= 0:
        return None
    x, y = rng.uniform(-free_x, free_x), rng.uniform(-free_y, free_y)
    if middle:
        x, y = 0.6 * x, 0.6 * y
    elif along_x:
        x = -free_x if side == 0 else free_x
    else:
        y = -free_y if side == 1 else free_y
    box = (x - dx / 2, y - dy / 2, x + dx / 2, y + dy / 2)
    if any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
        return None
    taken.append(box)
    return piece.shape.placed(x, y, facing)


def _shell(rng: np.random.Generator, length: float, width: float, height: float) -> Primitives:
    """Floor, walls, ceiling, and what hangs on them."""
    b = Builder(rng)
    b.plane(Material.GROUND)
    paint = varied(rng, _WALLS)
    thick = 0.2
    b.box(Material.ROOM_WALL, (0.92, 0.92, 0.9), (0, 0, height), (length + 1, width + 1, thick))
    b.box(Material.LAMP, (0.98, 0.95, 0.85), (0.1 * length, 0, height - 0.07), (0.5, 0.5, 0.07), taper=(0.0, 0.0))
    for side in range(4):
        yaw = side * np.pi / 2
        reach, span = (length, width) if side % 2 == 0 else (width, length)
        accent = varied(rng, _WALLS) if rng.random() < 0.25 else paint
        cos, sin = round(np.cos(yaw)), round(np.sin(yaw))

        def hang(
            material: Material,
            colour: Colour,
            across: float,
            base: float,
            size: tuple[float, float, float],
            away: float = reach / 2,
            direction: tuple[float, float] = (cos, sin),
            turn: float = yaw,
        ) -> None:
            x, y = away * direction[0] - across * direction[1], away * direction[1] + across * direction[0]
            b.box(material, colour, (x, y, base), size, yaw=turn)

        hang(Material.ROOM_WALL, accent, 0, 0, (thick, span + 2 * thick, height), reach / 2 + thick / 2)
        position = -span / 2 + rng.uniform(0.3, 0.8)
        while position < span / 2 - 1.2:
            choice = rng.integers(5)
            if choice == 0:
                wide, tall = rng.uniform(0.9, 1.6), rng.uniform(1.0, 1.3)
                hang(Material.PANE, (0.85, 0.92, 1.0), position + wide / 2, 0.9, (0.05, wide, tall))
                for edge in (0, wide):
                    hang(Material.CLOTH, varied(rng, _WALLS, 0.15), position + edge, 0.5, (0.14, 0.3, tall + 0.7))
            elif choice == 1:
                wide = 0.9
                hang(Material.PLAIN, (0.88, 0.88, 0.86), position + 0.45, 0, (0.05, 1.0, 2.1))
                hang(Material.WOOD, (0.65, 0.5, 0.35), position + 0.45, 0, (0.07, 0.86, 2.03))
            else:
                wide = rng.uniform(0.4, 0.9)
                tall = wide * rng.uniform(0.7, 1.3)
                hang(
                    Material.PICTURE,
                    varied(rng, ((0.5, 0.5, 0.5),), 0.3),
                    position + wide / 2,
                    1.35,
                    (0.05, wide, tall),
                )
            position += wide + rng.uniform(0.3, 1.2)
    return b.build()


def _room_light(rng: np.random.Generator) -> Light:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.9, 1.4)
    warm, power = rng.uniform(0, 0.35), rng.uniform(0.35, 0.8)
    return Light(
        sun=(
            float(np.cos(elevation) * np.cos(azimuth)),
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
        ),
        sun_colour=(power, power * (1 - 0.25 * warm), power * (1 - 0.6 * warm)),
        ambient_colour=(0.62, 0.6 - 0.06 * warm, 0.58 - 0.2 * warm),
        zenith=(0.55, 0.53, 0.5),
        horizon=(0.5, 0.48, 0.45),
        clouds=0.0,
        haze_distance=1e4,
    )
