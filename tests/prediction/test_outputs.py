"""What the files say."""

from pathlib import Path

import cv2
import numpy as np

from simipu_core.data.formats import ply
from simipu_core.data.images import decode_depth, png_notes
from simipu_core.evaluation.panels import colour
from simipu_core.geometry.cameras import project
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.prediction.outputs import cloud, coloured, depth_png, legend
from tests.prediction.pictures import pixels

DEPTH = np.geomspace(0.5, 79, 40 * 90, dtype=np.float32).reshape(40, 90)


def test_the_16_bit_picture_states_its_scale() -> None:
    depth = DEPTH.copy()
    depth[0, :3] = np.nan, 300.0, 255.5
    data = depth_png(depth)
    notes = png_notes(data)
    assert notes == {"depth_scale": "256", "unit": "metres = value / 256; 0: no answer"}
    read = decode_depth(data, float(notes["depth_scale"]))
    assert read[0, :3].tolist() == [0, 65534 / 256, 255.5]
    np.testing.assert_allclose(read.ravel()[3:], depth.ravel()[3:], atol=0.5 / 256 + 1e-6)


def test_other_readers_find_the_text_too(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(depth_png(DEPTH))
    values = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert values is not None
    assert values.dtype == np.uint16
    assert values.shape == DEPTH.shape


def test_colours_stand_over_their_legend() -> None:
    picture = coloured(DEPTH, 80)
    assert picture.shape[1] == 90
    np.testing.assert_array_equal(picture[:40], colour(DEPTH, 80))
    assert (picture[-3:] == 0).any()


def test_the_legend_runs_from_near_to_far_and_has_numbers() -> None:
    for width in (20, 90, 1242):
        picture = legend(width, 80)
        np.testing.assert_array_equal(picture[0, 0], colour(np.ones((1, 1), np.float32), 80)[0, 0])
        np.testing.assert_array_equal(picture[0, -1], colour(np.full((1, 1), 80, np.float32), 80)[0, 0])
        below = picture[max(6, width // 60) :]
        assert (below == 255).any() or width == 20
    numbers = np.count_nonzero(np.diff((legend(1242, 80)[21:] > 128).any((0, 2)).astype(int)) == 1)
    assert numbers > 10


def test_points_of_a_cloud_project_to_their_pixels() -> None:
    depth, image = DEPTH.copy(), pixels(0, 40, 90)
    depth[5] = np.nan
    camera = Intrinsics(fx=80, fy=90, cx=44, cy=19)
    read = ply.parse(cloud(depth, image, camera), 10_000)
    points = np.stack([read[axis] for axis in "xyz"], 1)
    uv, z = project(points, np.eye(4), camera.matrix())
    rows, columns = np.nonzero(np.isfinite(depth))
    np.testing.assert_allclose(uv, np.stack([columns, rows], 1), atol=1e-3)
    np.testing.assert_allclose(z, depth[rows, columns])
    colours = np.stack([read[name] for name in ("red", "green", "blue")], 1)
    np.testing.assert_array_equal(colours, image[rows, columns])
