"""The camera and the LiDAR see one and the same world."""

from dataclasses import replace

import numpy as np
import pytest

from simipu_core.synthetic.calibration import object_camera, raw_camera
from simipu_core.synthetic.lidar import BEAM_ELEVATIONS, MAX_RANGE, _windows, scan
from simipu_core.synthetic.raycast import cast, full_windows
from simipu_core.synthetic.render import Lens, render_depth, render_image
from simipu_core.synthetic.room import make_room, nyu_camera
from simipu_core.synthetic.scene import Floats, Kind, Material, Scene
from simipu_core.synthetic.street import make_street

SIZE = (48, 160)


@pytest.fixture(scope="module", params=[1, 4])
def street(request: pytest.FixtureRequest) -> tuple[Scene, Floats]:
    return make_street(np.random.default_rng(request.param), 4).at(2)


def test_depth_equals_projected_lidar(street: tuple[Scene, Floats]) -> None:
    """A camera ray through an exact LiDAR point ends there, or earlier where the camera's view is blocked."""
    scene, pose = street
    camera = raw_camera(SIZE)
    points = scan(scene, pose, 6400, np.random.default_rng(0), noisy=False).points[:, :3].astype(float)
    x, y, z = camera.lidar_to_camera[:3, :3] @ points.T + camera.lidar_to_camera[:3, 3:]
    ahead = z > 1
    u, v, w = camera.intrinsics @ np.stack((x, y, z))[:, ahead]
    u, v, depth = u / w, v / w, z[ahead]
    inside = (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
    u, v, depth = u[inside], v[inside], depth[inside]
    rays = camera.rays(u[None], v[None], pose)
    windows = full_windows(len(scene.solids), 1, u.size)
    seen = cast(scene.solids, camera.position(pose), rays, windows).distance[0]
    assert depth.size > 300
    # At an outline the ray may slip past what the pulse just touched: those points are few.
    assert (seen > depth + 0.02).mean() < 0.02
    visible = np.abs(seen - depth) < 0.02
    assert visible.mean() > 0.9


def test_camera_windows_change_nothing(street: tuple[Scene, Floats]) -> None:
    scene, pose = street
    camera = object_camera(SIZE)
    slow = cast(
        scene.solids, camera.position(pose), camera.pixel_rays(pose), full_windows(len(scene.solids), *SIZE)
    ).distance
    np.testing.assert_array_equal(render_depth(scene, camera, pose), slow)


def test_lidar_windows_change_nothing(street: tuple[Scene, Floats]) -> None:
    scene, pose = street
    azimuths = (np.arange(40) + 0.3) * (2 * np.pi / 40)
    beams = BEAM_ELEVATIONS[None, ::4]
    rays = np.stack(
        (
            np.cos(azimuths)[:, None] * np.cos(beams),
            np.sin(azimuths)[:, None] * np.cos(beams),
            np.broadcast_to(np.sin(beams), (40, 16)),
        )
    )
    directions = np.einsum("ij,jkl->ikl", pose[:3, :3], rays).astype(np.float32)
    windows = _windows(scene.solids, pose, azimuths, 16)
    slow = cast(scene.solids, pose[:3, 3], directions, full_windows(len(scene.solids), 40, 16))
    fast = cast(scene.solids, pose[:3, 3], directions, windows)
    np.testing.assert_array_equal(fast.distance, slow.distance)


def test_lidar_has_the_hdl64_beams() -> None:
    degrees = np.rad2deg(BEAM_ELEVATIONS)
    assert degrees.size == 64
    assert degrees[[0, 31, 32, 63]] == pytest.approx([2.0, -8.3333, -8.83, -24.33], abs=1e-3)
    assert (np.diff(degrees) < 0).all()


@pytest.mark.parametrize("noisy", [True, False])
def test_lidar_points_lie_on_their_beams(street: tuple[Scene, Floats], noisy: bool) -> None:
    scene, pose = street
    result = scan(scene, pose, 6400, np.random.default_rng(0), noisy=noisy)
    x, y, z, reflectance = result.points.T.astype(float)
    assert np.arctan2(z, np.hypot(x, y)) == pytest.approx(BEAM_ELEVATIONS[result.beam], abs=1e-4)
    assert result.points.dtype == np.float32
    assert reflectance.min() >= 0
    assert reflectance.max() < 1
    assert np.linalg.norm(result.points[:, :3], axis=1).max() < MAX_RANGE + 1
    assert 3000 < len(result.points) < 6400
    assert set(result.beam.tolist()) == set(range(64))


def test_a_lidar_of_other_beams(street: tuple[Scene, Floats]) -> None:
    scene, pose = street
    elevations = np.deg2rad([5.0, -5.0, -10.0])
    result = scan(scene, pose, 300, np.random.default_rng(0), noisy=False, elevations=elevations)
    x, y, z, _ = result.points.T.astype(float)
    assert np.arctan2(z, np.hypot(x, y)) == pytest.approx(elevations[result.beam], abs=1e-4)
    assert np.bincount(result.beam)[1:].max() <= 100


def test_noise_is_centimetres_and_drops_the_far_and_dark() -> None:
    scene, pose = make_street(np.random.default_rng(1)).at(0)
    exact = scan(scene, pose, 12800, np.random.default_rng(0), noisy=False)
    noisy = scan(scene, pose, 12800, np.random.default_rng(0))
    assert 0.6 * len(exact.points) < len(noisy.points) < 0.99 * len(exact.points)
    ground = scene.solids.kind[noisy.solid] == Kind.PLANE
    height = (noisy.points[ground, :3] @ pose[2, :3] + pose[2, 3])[np.linalg.norm(noisy.points[ground], axis=1) < 8]
    assert 0 < np.abs(height).std() < 0.02  # 2 cm along a slanting ray
    assert np.linalg.norm(noisy.points[:, :3], axis=1).mean() < np.linalg.norm(exact.points[:, :3], axis=1).mean()


def test_reflectance_tells_materials_apart() -> None:
    values: dict[int, list[float]] = {}
    for seed in range(6):
        scene, pose = make_street(np.random.default_rng(seed)).at(0)
        result = scan(scene, pose, 6400, np.random.default_rng(0), noisy=False)
        for material, value in zip(scene.solids.material[result.solid], result.points[:, 3], strict=True):
            values.setdefault(int(material), []).append(float(value))
    median = {material: np.median(found) for material, found in values.items()}
    assert median[Material.WHEEL] < median[Material.GROUND] < median[Material.FOLIAGE] < median[Material.SIGN]
    assert np.percentile(values[Material.GROUND], 99) > 3 * median[Material.GROUND]  # paint marks


def test_pixels_are_a_picture(street: tuple[Scene, Floats]) -> None:
    scene, pose = street
    image = render_image(scene, object_camera(SIZE), pose, Lens(supersampling=2), np.random.default_rng(0))
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    assert 40 < image.mean() < 200
    assert image.std() > 20


def test_streets_are_deep_and_differ() -> None:
    camera = object_camera((24, 80))
    depths = []
    for seed in range(24):
        scene, pose = make_street(np.random.default_rng([seed, 7])).at(0)
        depth = render_depth(scene, camera, pose)
        depths.append(depth[np.isfinite(depth) & (depth < 80)])
    medians = np.array([np.median(depth) for depth in depths])
    assert 8 < np.median(medians) < 20
    assert medians.max() > 1.8 * medians.min()
    every = np.concatenate(depths)
    best = min(np.mean(np.abs(constant - every) / every) for constant in np.arange(2.0, 30))
    assert best > 0.35  # a constant guess does badly


def test_moving_ego_sees_a_standing_world_pass_by() -> None:
    street = make_street(np.random.default_rng(3), 10)
    first, last = street.pose(0), street.pose(9)
    step = np.linalg.norm(last[:3, 3] - first[:3, 3]) / 9
    assert 0.8 < step < 2.6
    for pose in (first, last):
        assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
        assert pose[2, 3] == 1.73


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 5)])
def test_tiny_images(size: tuple[int, int]) -> None:
    scene, pose = make_street(np.random.default_rng(0)).at(0)
    camera = object_camera(size)
    assert render_depth(scene, camera, pose).shape == size
    assert render_image(scene, camera, pose, Lens(), np.random.default_rng(0)).shape == (*size, 3)


def test_rooms_have_indoor_depths() -> None:
    camera = nyu_camera()
    scale = np.diag([0.1, 0.1, 1])
    small = replace(camera, intrinsics=scale @ camera.intrinsics, size=(48, 64))
    medians = []
    for seed in range(8):
        for scene, pose in make_room(np.random.default_rng(seed), 2):
            depth = render_depth(scene, small, pose)
            assert np.isfinite(depth).all()
            assert 0.4 < depth.min() < depth.max() < 10
            medians.append(np.median(depth))
    assert max(medians) - min(medians) > 0.8
