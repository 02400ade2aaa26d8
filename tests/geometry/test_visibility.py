import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible

KITTI = np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1]])


def slow_visible(uv: NDArray[np.float64], depth: NDArray[np.float64], margin: float, cell: float) -> list[bool]:
    cells = [(int(u / cell), int(v / cell)) for u, v in uv]
    result = []
    for (column, row), own in zip(cells, depth, strict=True):
        near = [
            other
            for (other_column, other_row), other in zip(cells, depth, strict=True)
            if abs(other_column - column) <= 1 and abs(other_row - row) <= 1
        ]
        result.append(min(near) >= own * (1 - margin))
    return result


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    margin=st.floats(0, 0.5),
    cell=st.floats(0.5, 9),
)
def test_equals_the_comparison_of_all_pairs(seed: int, count: int, margin: float, cell: float) -> None:
    rng = np.random.default_rng(seed)
    uv = rng.uniform(0, [40, 20], (count, 2))
    depth = rng.uniform(1, 30, count)
    assert visible(uv, depth, 20, 40, margin, cell).tolist() == slow_visible(uv, depth, margin, cell)


def test_hides_only_what_is_deeper_by_more_than_the_margin() -> None:
    uv = np.array([[10.0, 10], [10.2, 10], [10.4, 10], [30, 10]])
    depth = np.array([9.6, 10.0, 10.2, 50.0])
    assert visible(uv, depth, 20, 40, 0.05, 1.5).tolist() == [True, True, False, True]


def test_accepts_the_last_pixels_and_no_points() -> None:
    assert visible(np.array([[39.99, 19.99]]), np.array([1.0]), 20, 40, 0.05, 1.5).tolist() == [True]
    assert visible(np.empty((0, 2)), np.empty(0), 20, 40, 0.05, 1.5).shape == (0,)


def test_a_scanned_car_hides_the_wall_behind_it_but_the_road_does_not_hide_itself() -> None:
    elevations = np.radians(np.arange(-12, 2, 1 / 3))
    azimuths = np.radians(np.arange(-30, 30, 0.16))
    up, side = (grid.ravel() for grid in np.meshgrid(elevations, azimuths))
    rays = np.stack([np.cos(up) * np.cos(side), np.cos(up) * np.sin(side), np.sin(up)], axis=1)
    road = np.where(rays[:, 2] < 0, -1.73 / np.minimum(rays[:, 2], -1e-9), np.inf)
    wall = 40 / rays[:, 0]
    car_at = 12 / rays[:, 0]
    is_car = (np.abs(car_at * rays[:, 1]) < 1) & (car_at * rays[:, 2] < -0.21) & (car_at < road)
    points = rays * np.where(is_car, car_at, np.minimum(road, wall))[:, None]

    sensor_to_camera = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]])
    uv, depth = project(points, sensor_to_camera, KITTI)
    inside = in_image(uv, depth, 375, 1242)
    uv, depth, points, is_car = uv[inside], depth[inside], points[inside], is_car[inside]
    seen = visible(uv, depth, 375, 1242, 0.05, cell_size(KITTI))

    camera_rays = points - [0.27, 0, -0.08]
    at_car = camera_rays * ((12 - 0.27) / camera_rays[:, :1]) + [0.27, 0, -0.08]
    truly_hidden = ~is_car & (points[:, 0] > 13) & (np.abs(at_car[:, 1]) < 1) & (at_car[:, 2] < -0.21)
    truly_hidden &= at_car[:, 2] > -1.73
    clear_of_car = np.abs(at_car[:, 1]) > 1.1
    assert truly_hidden.sum() > 50
    assert (~seen[truly_hidden]).mean() > 0.6
    assert seen[clear_of_car & (points[:, 2] < -1.7)].mean() > 0.99
    assert seen[is_car].all()
