from pathlib import Path

import cv2
import numpy as np
import pytest

from simipu_core.evaluation.panels import colour, save_panel


def test_near_and_far_differ_and_the_unknown_is_black() -> None:
    picture = colour(np.array([[1.0, 5.0, 80.0, np.nan]], np.float32), 80)
    assert len({tuple(pixel) for pixel in picture[0].tolist()}) == 4
    assert picture[0, 3].tolist() == [0, 0, 0]


def test_a_panel_shows_image_measurements_and_prediction(tmp_path: Path) -> None:
    image = np.full((40, 120, 3), 200, np.uint8)
    truth = np.zeros((40, 120), np.float32)
    truth[20, 60] = 10.0
    prediction = np.full((40, 120), 10, np.float32)
    save_panel(tmp_path / "panel.png", image, truth, prediction, 80)
    panel = cv2.imread(str(tmp_path / "panel.png"), cv2.IMREAD_COLOR_RGB)
    assert panel is not None
    top, middle, bottom = np.split(panel, 3)
    assert (top == 200).all()
    assert (middle == 100).all(axis=2).mean() > 0.99
    zoom = panel.shape[1] // 120
    np.testing.assert_array_equal(middle[20 * zoom, 60 * zoom], bottom[0, 0])
    assert (bottom == bottom[0, 0]).all()


def test_an_unwritable_file_is_an_error(tmp_path: Path) -> None:
    image, depth = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32)
    with pytest.raises(OSError, match="nowhere"):
        save_panel(tmp_path / "nowhere" / "panel.png", image, depth, depth, 80)
