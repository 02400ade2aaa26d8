"""Frames unlike those of pre-training: another camera and LiDAR, night, rooms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.data.pairing import depth_map
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible
from simipu_core.synthetic.calibration import object_camera
from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.lidar import scan
from simipu_core.synthetic.render import render_depth, render_image
from simipu_core.synthetic.room import make_room, nyu_camera
from simipu_core.synthetic.scene import Floats, Light, Scene
from simipu_core.synthetic.street import make_street
from simipu_core.synthetic.world import random_lens
from simipu_core.synthetic.writers import semi_dense

_FOCAL = 0.7
"""Factor on the focal length of the other camera."""
_RAISED = 0.6
"""Metres that it and its LiDAR stand higher."""
_BEAMS = np.deg2rad(np.linspace(10.67, -30.67, 32))
"""Elevations of the other LiDAR, those of an HDL-32E, radians."""
_ROOM_SCALE = 0.3
"""Size of the room camera's images, as a factor on NYU's."""
_NIGHT_GAIN, _NIGHT_NOISE = 2.5, 5.0


@dataclass(frozen=True)
class Taken:
    """A frame."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    label: NDArray[np.floating[Any]]
    """(H, W) metres, 0 or inf where there is none: what this domain's users can train on."""
    truth: NDArray[np.floating[Any]]
    """The same, to score."""
    intrinsics: NDArray[np.float64]
    """(3, 3)."""


def take(name: str, config: SyntheticConfig, split: str, index: int) -> Taken:
    """Render a frame of a domain; every one shows a place of its own.

    Args:
        name: of the domain.
        config: the world's sizes and seed.
        split: `train` or `eval`.
        index: of the frame in its split.
    """
    rng = np.random.default_rng([config.seed, 1000 + list(_DOMAINS).index(name), int(split == "train"), index])
    return _DOMAINS[name](config, rng)


def _other_camera(config: SyntheticConfig, rng: np.random.Generator) -> Taken:
    """Labels are projected scans; what is scored is semi-dense as in the drives."""
    scene, pose = make_street(rng).at(0)
    pose = pose.copy()
    pose[2, 3] += _RAISED
    camera = object_camera(config.image_size)
    camera = replace(camera, intrinsics=camera.intrinsics @ np.diag([_FOCAL, _FOCAL, 1.0]))
    image = render_image(scene, camera, pose, random_lens(rng, camera.size), rng)
    truth = semi_dense(render_depth(scene, camera, pose), camera, rng)
    return Taken(image, _scanned(scene, camera, pose, config, rng), truth, camera.intrinsics)


def _scanned(
    scene: Scene, camera: Camera, pose: Floats, config: SyntheticConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The visible points of a scan with half as many beams, as a sparse depth map."""
    packing, (height, width) = PairConfig(), camera.size
    points = scan(scene, pose, config.lidar_points // 2, rng, elevations=_BEAMS).points
    uv, depth = project(points[:, :3], camera.lidar_to_camera, camera.intrinsics)
    inside = in_image(uv, depth, height, width, packing.depth_range)
    uv, depth = uv[inside], depth[inside]
    seen = visible(uv, depth, height, width, packing.occlusion_margin, cell_size(camera.intrinsics.ravel().tolist()))
    return depth_map(uv[seen], depth[seen], height, width)


def _night(config: SyntheticConfig, rng: np.random.Generator) -> Taken:
    """The camera and LiDAR of the drives by moonlight, with a noisy sensor."""
    street, camera = make_street(rng), object_camera(config.image_size)
    scene, pose = street.at(0)
    day = random_lens(rng, camera.size)
    lens = replace(day, exposure=_NIGHT_GAIN * day.exposure, noise=_NIGHT_NOISE * day.noise)
    image = render_image(replace(scene, light=_moonlight(scene.light)), camera, pose, lens, rng)
    depth = semi_dense(render_depth(scene, camera, pose), camera, rng)
    return Taken(image, depth, depth, camera.intrinsics)


def _moonlight(day: Light) -> Light:
    return replace(
        day,
        sun_colour=(0.10, 0.11, 0.14),
        ambient_colour=(0.05, 0.055, 0.07),
        zenith=(0.010, 0.012, 0.020),
        horizon=(0.030, 0.032, 0.045),
    )


def _rooms(_: SyntheticConfig, rng: np.random.Generator) -> Taken:
    """One view of a room by a depth camera, which measures every pixel."""
    full = nyu_camera()
    scale = np.diag([_ROOM_SCALE, _ROOM_SCALE, 1.0])
    scale[:2, 2] = (_ROOM_SCALE - 1) / 2
    size = (round(full.size[0] * _ROOM_SCALE), round(full.size[1] * _ROOM_SCALE))
    camera = replace(full, intrinsics=scale @ full.intrinsics, size=size)
    ((scene, pose),) = make_room(rng, 1)
    image, depth = render_image(scene, camera, pose, random_lens(rng, size), rng), render_depth(scene, camera, pose)
    return Taken(image, depth, depth, camera.intrinsics)


_DOMAINS: dict[str, Callable[[SyntheticConfig, np.random.Generator], Taken]] = {
    "other_camera": _other_camera,
    "night": _night,
    "rooms": _rooms,
}
