"""Photographs and exact depth maps of a scene."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.synthetic.camera import Camera
from simipu_core.synthetic.materials import look_of
from simipu_core.synthetic.noise import noise
from simipu_core.synthetic.raycast import NONE, Hits, Surface, cast, occluded, surface
from simipu_core.synthetic.scene import Floats, Kind, Light, Look, Material, Scene

_NO_SHADOW = (Material.ROOM_WALL, Material.PANE, Material.LAMP)
_SKIN = 0.01  # shadow rays start this far off the surface, metres


@dataclass(frozen=True)
class Lens:
    """How the camera turns light into numbers."""

    exposure: float = 1.0
    """Factor on the light."""
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on red, green and blue."""
    noise: float = 0.008
    """Standard deviation of the sensor noise on a 0–1 scale."""
    supersampling: int = 1
    """Rays per pixel side in the photograph; the depth map always takes the pixel's centre."""


def render_depth(scene: Scene, camera: Camera, sensor_to_world: Floats) -> NDArray[np.float32]:
    """Exact z-depth at every pixel centre, (H, W) float32 metres, inf for the sky."""
    return np.asarray(_cast(scene, camera, sensor_to_world).distance, np.float32)


def render_solids(scene: Scene, camera: Camera, sensor_to_world: Floats) -> NDArray[np.int32]:
    """The solid that every pixel's centre sees: (H, W) int32 indices into the scene's, `raycast.NONE` for the sky."""
    return np.asarray(_cast(scene, camera, sensor_to_world).solid, np.int32)


def render_image(
    scene: Scene, camera: Camera, sensor_to_world: Floats, lens: Lens, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Photograph a scene, (H, W, 3) uint8 RGB.

    Args:
        scene: the world.
        camera: intrinsics and place on the sensor frame.
        sensor_to_world: (4, 4) pose of the sensor frame.
        lens: exposure, colour, noise, supersampling.
        rng: source of the sensor noise.
    """
    height, width = camera.size
    fine = _finer(camera, lens.supersampling)
    light: NDArray[Any] = _radiance(scene, fine, sensor_to_world)
    if lens.supersampling > 1:
        light = cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA)
    light = cv2.GaussianBlur(light, (3, 3), 0.45)
    column, row = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    vignette = 1 - 0.12 * (column**2 + row**2)[..., None]
    gains = (lens.exposure * np.array(lens.white_balance)).astype(np.float32)
    pixels = np.clip(light * gains * vignette, 0, None) ** (1 / 2.2)
    pixels = pixels / (1 + np.maximum(pixels - 0.8, 0))  # highlights roll off
    pixels += lens.noise * rng.standard_normal(pixels.shape, np.float32)
    return np.asarray(np.clip(pixels * 255 + 0.5, 0, 255), np.uint8)


def _finer(camera: Camera, factor: int) -> Camera:
    """Split each pixel into factor × factor."""
    scale = np.diag([factor, factor, 1.0])
    scale[:2, 2] = (factor - 1) / 2
    height, width = camera.size
    return replace(camera, intrinsics=scale @ camera.intrinsics, size=(height * factor, width * factor))


def _cast(scene: Scene, camera: Camera, sensor_to_world: Floats) -> Hits:
    windows = camera.windows(scene.solids, sensor_to_world)
    planes = np.flatnonzero(scene.solids.kind == Kind.PLANE)
    windows = windows[~np.isin(windows[:, 0], planes)]
    everywhere = np.array([(index, 0, camera.size[0], 0, camera.size[1]) for index in planes], np.int64)
    windows = np.concatenate((everywhere.reshape(-1, 5), windows))
    return cast(scene.solids, camera.position(sensor_to_world), camera.pixel_rays(sensor_to_world), windows)


def _radiance(scene: Scene, camera: Camera, sensor_to_world: Floats) -> NDArray[np.float32]:
    """Linear light that reaches each pixel, (H, W, 3) float32."""
    hits = _cast(scene, camera, sensor_to_world)
    rays = camera.pixel_rays(sensor_to_world).reshape(3, -1)
    depth, solid = hits.distance.ravel(), hits.solid.ravel()
    light = np.empty_like(rays)
    seen = np.flatnonzero(solid != NONE)
    open_sky = np.flatnonzero(solid == NONE)
    light[:, open_sky] = sky(scene.light, rays[:, open_sky])

    view = rays[:, seen]
    distance = depth[seen]
    origin = camera.position(sensor_to_world)[:, None].astype(np.float32)
    at = surface(scene.solids, solid[seen], origin + view * distance)
    length = np.sqrt((view**2).sum(axis=0))
    view = view / length
    footprint = distance / float(camera.intrinsics[0, 0])
    slant = np.maximum(np.abs((view * at.normal).sum(axis=0)), 0.05)
    look = look_of(scene, at, footprint / np.sqrt(slant))
    colour = _shade(scene, at, look, view)
    clear = np.exp(-distance * length / scene.light.haze_distance)
    haze = _column(scene.light.horizon)
    light[:, seen] = colour * clear + haze * (1 - clear)
    return np.ascontiguousarray(light.T.reshape(*camera.size, 3), np.float32)


def _shade(scene: Scene, at: Surface, look: Look, view: Floats) -> Floats:
    """Light that M surface points send back along the view, (3, M)."""
    sun = np.array(scene.light.sun)
    material = scene.solids.material[at.solid]
    facing = (_column(scene.light.sun) * at.normal).sum(axis=0)
    leafy = material == Material.FOLIAGE
    facing = np.where(leafy, 0.25 + 0.75 * facing, facing)
    lit = np.flatnonzero(facing > 0)
    casters = scene.solids.select(
        (scene.solids.kind != Kind.PLANE) & ~np.isin(scene.solids.material, [int(m) for m in _NO_SHADOW])
    )
    if len(casters):
        start = at.point[:, lit] + _SKIN * at.normal[:, lit]
        facing[lit] *= ~occluded(casters, start, sun)
    direct = np.maximum(facing, 0)
    open_to_sky = 0.66 + 0.34 * at.normal[2]
    low = np.clip(at.point[2] / 0.5, 0, 1)
    grounded = np.where(np.abs(at.normal[2]) < 0.9, 0.65 + 0.35 * low, 1)  # less skylight at the foot of things
    diffuse = look.albedo * (
        _column(scene.light.sun_colour) * direct + _column(scene.light.ambient_colour) * (open_to_sky * grounded)
    )
    diffuse = np.where(material == Material.LAMP, 1.6 * look.albedo, diffuse)
    shiny = np.flatnonzero(look.gloss > 0.02)
    toward, normal = view[:, shiny], at.normal[:, shiny]
    cosine = (toward * normal).sum(axis=0)
    mirror = sky(scene.light, toward - 2 * cosine * normal)
    fresnel = look.gloss[shiny] * (0.06 + 0.94 * (1 - np.abs(cosine)) ** 4)
    diffuse[:, shiny] = diffuse[:, shiny] * (1 - fresnel) + mirror * fresnel
    return np.asarray(diffuse)


def sky(light: Light, directions: Floats) -> Floats:
    """Linear colour of the sky, (3, M), in (3, M) directions; below the horizon, of the street it mirrors."""
    dx, dy, dz = directions / np.sqrt((directions**2).sum(axis=0))
    up = np.sqrt(np.clip(dz, 0, 1))
    colour = _column(light.horizon) * (1 - up) + _column(light.zenith) * up
    high = np.maximum(dz, 0.03)
    billows = noise(dx / high * 2 + 100, dy / high * 2 + 100, 12)
    cloud = np.clip((billows + 2 * light.clouds - 1) * 2.5, 0, 1) * np.clip(dz * 8, 0, 1)
    colour = colour + cloud * 0.7 * (_column(light.horizon) * 1.05 - colour)
    near_sun = np.clip((np.stack((dx, dy, dz)) * _column(light.sun)).sum(axis=0), 0, 1)
    colour = colour + _column(light.sun_colour) * (0.15 * near_sun**8 + 0.5 * near_sun**200)
    below = np.clip(-dz * 6, 0, 1)
    return np.asarray(colour + below * (0.12 * _column(light.horizon) - colour), np.float32)


def _column(colour: tuple[float, float, float]) -> Any:
    return np.array(colour, np.float32)[:, None]
