"""Where intrinsics are stated."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from simipu_core.errors import SimipuError
from simipu_core.prediction.intrinsics import Intrinsics, read_intrinsics
from tests.prediction.pictures import pixels

FOUR = {"fx": 700.0, "fy": 710.0, "cx": 300.0, "cy": 200.0}


def calibration(file: Path, *names: str) -> Path:
    distortion = {"model": "plumb_bob", "coefficients": [-0.3, 0.1, 0, 0]}
    lidar = {"matrix": np.eye(4).tolist()}
    camera = {**FOUR, "size": [400, 600], "distortion": distortion, "lidar_to_camera": lidar}
    cameras = {name: {**camera, "fx": 700.0 + number} for number, name in enumerate(names)}
    file.write_text(yaml.safe_dump({"cameras": cameras, "lidars": {"top": {}}}))
    return file


def test_of_numbers_and_matrices() -> None:
    expected = Intrinsics(fx=700, fy=710, cx=300, cy=200)
    assert Intrinsics.of((700, 710, 300, 200)) == expected
    assert Intrinsics.of(expected.matrix()) == expected
    assert Intrinsics.of(np.reshape(expected.matrix(), (3, 3))) == expected


def test_of_json(tmp_path: Path) -> None:
    file = tmp_path / "camera.json"
    file.write_text(json.dumps({**FOUR, "size": [400, 600]}))
    assert read_intrinsics(str(file)) == Intrinsics(**FOUR, size=(400, 600))
    for text in ("{", "[]", "[" * 100_000, '{"fx": 1}', json.dumps({**FOUR, "fx": -1})):
        file.write_text(text)
        with pytest.raises(SimipuError, match=r"camera\.json: holds no intrinsics; write them as"):
            read_intrinsics(str(file))
    with pytest.raises(SimipuError, match=r"nothing\.json: cannot be read"):
        read_intrinsics(str(tmp_path / "nothing.json"))


def test_of_a_calibration(tmp_path: Path) -> None:
    one = read_intrinsics(str(calibration(tmp_path / "calibration.yaml", "front")))
    assert (one.fx, one.size, one.lens, one.distortion) == (700, (400, 600), "plumb_bob", (-0.3, 0.1, 0, 0))
    image = pixels(0, 400, 600)
    assert not np.array_equal(one.undistorted(image), image)
    several = calibration(tmp_path / "several.yaml", "front", "rear")
    assert read_intrinsics(f"{several}#rear").fx == 701
    for name in (several, f"{several}#left"):
        with pytest.raises(SimipuError, match=r"holds the cameras front, rear; choose one: --intrinsics .*#CAMERA"):
            read_intrinsics(str(name))
    with pytest.raises(SimipuError, match=r"the calibration file is missing; --intrinsics takes fx,fy,cx,cy"):
        read_intrinsics(str(tmp_path / "nothing.yaml"))


def test_they_must_fit_the_picture() -> None:
    Intrinsics(**FOUR).check(400, 600)
    with pytest.raises(SimipuError, match=r"is 300×250 pixels, and the centre cx=300, cy=200 .* lies outside"):
        Intrinsics(**FOUR).check(300, 250)
    with pytest.raises(SimipuError, match=r"is 800×1200 pixels, but its intrinsics are for 400×600; give those"):
        Intrinsics(**FOUR, size=(400, 600)).check(800, 1200)
