from pathlib import Path

import numpy as np
import pytest

from simipu_core.data.frames import Frame
from simipu_core.data.images import image_size
from simipu_core.geometry.cameras import in_image, project
from tests.sources import any_source


def test_projects_like_the_homogeneous_product_point_by_point() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([1, -3, -2], [30, 3, 2], (50, 3)).astype(np.float32)
    lidar_to_camera = np.array([[0.1, -1, 0, 0.2], [0, 0.1, -1, 0.3], [1, 0, 0.1, -0.4], [0, 0, 0, 1]])
    intrinsics = np.array([[700.0, 0.5, 600], [0, 710, 170], [0, 0, 1]])
    uv, depth = project(points, lidar_to_camera, intrinsics)
    assert uv.dtype == depth.dtype == np.float64
    for index, point in enumerate(points):
        x, y, z = (intrinsics @ (lidar_to_camera @ [*point.astype(float), 1.0])[:3]).tolist()
        np.testing.assert_allclose([*uv[index], depth[index]], [x / z, y / z, z], rtol=1e-12)


def test_accepts_row_major_lists_and_no_points() -> None:
    uv, depth = project(np.empty((0, 3)), np.eye(4).ravel().tolist(), np.eye(3).ravel().tolist())
    assert uv.shape == (0, 2)
    assert depth.shape == (0,)


@pytest.mark.parametrize(
    ("u", "v", "depth", "inside"),
    [
        (0.0, 0.0, 1.0, True),
        (79.999, 23.999, 1.0, True),
        (80.0, 5.0, 1.0, False),
        (5.0, 24.0, 1.0, False),
        (-1e-9, 5.0, 1.0, False),
        (5.0, -1e-9, 1.0, False),
        (5.0, 5.0, 0.5, False),
        (5.0, 5.0, 0.501, True),
        (5.0, 5.0, 99.999, True),
        (5.0, 5.0, 100.0, False),
    ],
)
def test_image_bounds_are_half_open_and_depths_exclusive(u: float, v: float, depth: float, inside: bool) -> None:
    assert in_image(np.array([[u, v]]), np.array([depth]), 24, 80, (0.5, 100.0)).tolist() == [inside]


def test_points_beside_and_behind_the_camera_are_outside() -> None:
    uv, depth = project(np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, -5], [0, 0, 5]]), np.eye(4), np.eye(3))
    assert in_image(uv, depth, 24, 80).tolist() == [False, False, False, True]


@pytest.mark.real_data
def test_real_kitti_frames_have_the_known_number_of_points_in_the_image(real_data: Path) -> None:
    counts = {}
    for name in ("000001", "000008"):
        frame = next(
            each for each in any_source(kind="kitti_object").list_frames(real_data) if each.sample_id.endswith(name)
        )
        counts[name] = int(_in_image(frame, (0.0, np.inf)).sum())
    assert counts == {"000001": 18630, "000008": 17238}


@pytest.mark.real_data
def test_an_eighth_to_a_fifth_of_each_real_scan_lands_in_the_image(real_data: Path) -> None:
    listing = [
        *any_source(kind="kitti_object").list_frames(real_data),
        *any_source(kind="kitti_raw").list_frames(real_data),
    ]
    shares = [_in_image(frame, (2.0, 80.0)).mean() for frame in listing]
    assert len(shares) == 34
    assert min(shares) >= 0.13
    assert max(shares) <= 0.21


def _in_image(frame: object, depth_range: tuple[float, float]) -> np.ndarray:
    assert isinstance(frame, Frame)
    assert frame.points is not None
    assert frame.lidar_to_camera is not None
    height, width = image_size(frame.image.read_bytes())
    points = np.fromfile(frame.points, "<f4").reshape(-1, 4)
    uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
    return in_image(uv, depth, height, width, depth_range)
