"""Right and deliberately wrong calibrations of the real KITTI frames."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from simipu_core.checking.alignment import Alignment, Camera, align, changes
from simipu_core.checking.calibrations import better_change, confidence
from simipu_core.checking.report import Report, Severity
from simipu_core.config import PairConfig
from simipu_core.data.frames import Frame
from simipu_core.data.images import decode_image, image_size
from simipu_core.stages.check import check
from simipu_core.synthetic.calibration import rotation
from tests.checking.datasets import DATA_SETS, DataSet
from tests.sources import any_source

OBJECT = DATA_SETS[0]
RAW = replace(
    DATA_SETS[1],
    settings={"every": 3},
    parts={"calibration": "kitti_raw/2011_09_26/calib_cam_to_cam.txt"},
    calibrations="kitti_raw/2011_09_26/calib_velo_to_cam.txt",
)


@pytest.fixture(params=[OBJECT, RAW], ids=["kitti_object", "kitti_raw"])
def sample(request: pytest.FixtureRequest, real_data: Path, tmp_path: Path) -> tuple[DataSet, Path]:
    """A real sample: images and scans as links, calibration as copies that may be changed."""
    data: DataSet = request.param
    for file in (real_data / data.kind).rglob("*.*"):
        made = tmp_path / file.relative_to(real_data)
        if file.is_file():
            made.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made) if file.suffix == ".txt" else made.symlink_to(file)
    return data, tmp_path


def examine(data: DataSet, root: Path) -> Report:
    return check(data.source(), PairConfig(), root=str(root))


def found(report: Report, name: str) -> tuple[Severity, str]:
    (finding,) = [finding for finding in report.findings if finding.check == name]
    return finding.severity, finding.what


@pytest.mark.real_data
def test_the_right_calibration_is_not_flagged(sample: tuple[DataSet, Path]) -> None:
    report = examine(*sample)
    assert not report.has_faults
    for name in ("points in image", "orientation", "calibration date", "edge alignment"):
        assert found(report, name)[0] is Severity.OK, found(report, name)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("axis", "degrees"),
    [
        pytest.param(axis, degrees, marks=() if (axis, degrees) == ("yaw", 2) else pytest.mark.slow)
        for axis in ("pitch", "yaw", "roll")
        for degrees in (-2, 2)
    ],
)
def test_a_calibration_turned_by_two_degrees_is_flagged(sample: tuple[DataSet, Path], axis: str, degrees: int) -> None:
    data, root = sample
    turn = rotation(*(np.deg2rad(degrees) * (name == axis) for name in ("pitch", "yaw", "roll")))
    data.edit_extrinsics(root, lambda matrix: turn @ matrix)
    severity, what = found(examine(data, root), "edge alignment")
    assert severity is Severity.FAULT
    assert f"better with {axis} {-degrees:+d}°" in what


@pytest.mark.real_data
def test_the_calibration_of_the_right_camera_is_flagged(sample: tuple[DataSet, Path]) -> None:
    data, root = sample
    data.swap_cameras(root)
    severity, what = found(examine(data, root), "edge alignment")
    assert severity is Severity.FAULT
    assert "better with camera +0.54 m sideways" in what


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda matrix: np.diag([-1.0, 1, 1]) @ matrix, "broken frames"),
        (lambda matrix: matrix.T, "orientation"),
        (lambda matrix: rotation(0, np.pi, 0) @ matrix, "edge alignment"),
    ],
    ids=["mirrored", "transposed", "backwards"],
)
def test_an_impossible_calibration_is_flagged(
    sample: tuple[DataSet, Path], change: Callable[[np.ndarray], np.ndarray], name: str
) -> None:
    data, root = sample
    data.edit_extrinsics(root, change)
    assert found(examine(data, root), name)[0] is not Severity.OK


GROSS = [
    (lambda points: np.array([1, -1, 1, 1], np.float32) * points, "left and right mirrored"),
    (lambda points: points[:, [1, 0, 2, 3]] * np.array([-1, 1, 1, 1], np.float32), "a quarter turn to the left"),
]


def change_scans(data: DataSet, root: Path, change: Callable[[np.ndarray], np.ndarray], most: int) -> None:
    """Replace scans by changed ones, and remove the images beyond the first few."""
    for file in sorted(root.rglob("*.bin")):
        points = change(np.fromfile(file, "<f4").reshape(-1, 4))
        file.unlink()
        file.write_bytes(points.astype("<f4").tobytes())
    for name in ("*.png", "*.bin", "000*.txt"):
        for file in sorted(root.rglob(name))[most:]:
            file.unlink()


@pytest.mark.real_data
@pytest.mark.parametrize(("change", "name"), GROSS, ids=["mirrored", "y_forward"])
def test_scans_with_other_axes_are_flagged_or_said_to_be_beyond_telling(
    sample: tuple[DataSet, Path], change: Callable[[np.ndarray], np.ndarray], name: str
) -> None:
    data, root = sample
    change_scans(data, root, change, most=1000)
    severity, what = found(examine(data, root), "edge alignment")
    if severity is Severity.FAULT:
        assert f"with {name}" in what  # perhaps beside others that may be right as well
    else:
        assert severity is Severity.WARNING
        assert "cannot be told from" in what or "no better than with calibrations that are surely wrong" in what


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("change", [lambda image: np.roll(image, image.shape[1] // 2, 1), lambda image: image[:, ::-1]])
def test_images_that_are_rolled_or_mirrored_are_never_called_right(
    sample: tuple[DataSet, Path], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    data, root = sample
    for file in list(root.rglob("*.png")):
        image = change(decode_image(file.read_bytes()))
        file.unlink()
        cv2.imwrite(str(file), image)
    assert found(examine(data, root), "edge alignment")[0] is not Severity.OK


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("most", [1, 3])
def test_few_frames_with_other_axes_are_never_called_right(
    real_data: Path, sample: tuple[DataSet, Path], most: int
) -> None:
    data, root = sample
    for change, _ in GROSS:
        change_scans(data, root, change, most)
        assert found(examine(data, root), "edge alignment")[0] is not Severity.OK


@pytest.mark.slow
@pytest.mark.real_data
def test_single_right_frames_are_right_or_cannot_be_told(real_data: Path, tmp_path: Path) -> None:
    told = []
    for number in range(10):
        root = tmp_path / str(number) / "kitti_object/training"
        for part, suffix in (("image_2", "png"), ("velodyne", "bin"), ("calib", "txt")):
            (root / part).mkdir(parents=True)
            file = f"{part}/{number:06d}.{suffix}"
            (root / file).symlink_to(real_data / "kitti_object/training" / file)
        severity, what = found(examine(OBJECT, tmp_path / str(number)), "edge alignment")
        assert severity is not Severity.FAULT, what
        assert severity is Severity.OK or "cannot be told from 1 frame" in what
        told.append(severity is Severity.OK)
    assert 1 <= sum(told) <= 9


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "severity"),
    [("kitti_raw", Severity.FAULT), pytest.param("kitti_object", Severity.WARNING, marks=pytest.mark.slow)],
)
def test_undistorting_rectified_images_is_flagged(
    real_data: Path, tmp_path: Path, kind: str, severity: Severity
) -> None:
    coefficients = [-0.369, 0.197, 0.00135, 0.00057, -0.0677]  # of KITTI's left colour camera before rectification
    for number, frame in enumerate(any_source(kind=kind).list_frames(real_data)):
        assert isinstance(frame, Frame)
        assert frame.points
        assert frame.lidar_to_camera
        folder = tmp_path / "logs" / f"{number:02d}"
        for part, file in (("images/left", frame.image), ("scans/top", frame.points)):
            (folder / part).mkdir(parents=True)
            (folder / part / f"0{file.suffix}").symlink_to(file)
        camera = {
            "size": image_size(frame.image.read_bytes()),
            "intrinsics": np.reshape(frame.intrinsics, (3, 3)).tolist(),
            "lidar_to_camera": {"matrix": np.reshape(frame.lidar_to_camera, (4, 4)).tolist()},
            "distortion": {"model": "plumb_bob", "coefficients": coefficients},
        }
        calibration = {"cameras": {"left": camera}, "lidars": {"top": {"columns": ["x", "y", "z", "reflectance"]}}}
        (folder / "calibration.yaml").write_text(json.dumps(calibration))
    told = found(check(any_source(kind="logs"), PairConfig(), root=str(tmp_path)), "edge alignment")
    assert told[0] is severity
    assert "better with no undistortion (these images are rectified already)" in told[1]


@pytest.mark.real_data
def test_the_calibration_of_another_date_is_flagged(real_data: Path, sample: tuple[DataSet, Path]) -> None:
    data, root = sample
    other = real_data / "kitti_object/training/calib/000000.txt"  # of 2011_09_28, where most are of 2011_09_26
    if data is OBJECT:
        shutil.copyfile(other, root / "kitti_object/training/calib/000003.txt")
    else:
        (p2,) = [line for line in other.read_text().splitlines() if line.startswith("P2: ")]
        file = root / data.parts["calibration"]
        lines = file.read_text().splitlines()
        file.write_text("\n".join(p2.replace("P2", "P_rect_02") if "P_rect_02" in line else line for line in lines))
    severity, what = found(examine(data, root), "calibration date")
    assert severity is Severity.FAULT
    assert "the size of one recording date and the focal length of another" in what


def test_an_image_without_edges_tells_nothing() -> None:
    camera = Camera(np.eye(3), np.eye(4))
    assert align(np.zeros((20, 40, 3), np.uint8), np.ones((50, 4), np.float32), camera, {}) is None


def test_points_without_edges_tell_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    assert align(image, np.ones((50, 4), np.float32), Camera(np.eye(3), np.eye(4)), {}) is None


def test_a_change_is_believed_where_most_frames_agree() -> None:
    def scores(*gains: float) -> list[Alignment]:
        return [Alignment(0.4, 0.3, {"yaw": 0.4 + gain, "pitch": 0.35}) for gain in gains]

    assert better_change(scores(0.05, 0.06, 0.04, 0.05), 1e-3) == "yaw"
    assert better_change(scores(0.2, -0.1, 0.2, -0.1), 1e-3) is None
    assert better_change(scores(0.01, 0.01, 0.01, 0.01), 1e-3) is None
    assert better_change(scores(0.05, 0.05, 0.05), 1e-3) is None
    assert better_change(scores(0.05, 0.08, 0.03, 0.04), 1e-3) is None  # four frames say little
    assert better_change(scores(*4 * (0.05, 0.08, 0.03, 0.04)), 1e-3) == "yaw"


def test_the_amount_is_that_which_gains_most_and_rivals_are_named() -> None:
    def scores(**gains: Sequence[float]) -> list[Alignment]:
        names = {"one": "yaw -1°", "two": "yaw -2°", "left": "a quarter turn to the left", "roll": "roll +1°"}
        return [Alignment(0.4, 0.3, {names[each]: 0.4 + gain[i] for each, gain in gains.items()}) for i in range(4)]

    small, large, other = (0.03, 0.03, 0.031, 0.03), (0.01, 0.14, 0.04, 0.07), (0.06, 0.02, 0.05, 0.09)
    assert better_change(scores(one=small), 1e-3) == "yaw -1°"
    assert better_change(scores(one=small, two=large), 1e-3) == "yaw -2°"
    told = "yaw -2°, or about as well with a quarter turn to the left"
    assert better_change(scores(one=small, two=large, left=other), 1e-3) == told
    assert better_change(scores(one=small, roll=(0.001, 0.0, 0.002, 0.001)), 1e-3) == "yaw -1°"


def test_confidence_grows_with_the_frames_and_is_unknown_without_wrong_calibrations() -> None:
    frames = [Alignment(0.4, 0.3, {}, standing) for standing in (1.0, 3.0, None)]
    assert confidence(frames) == pytest.approx(2 * 2**0.5)
    assert confidence(frames[2:]) is None


def test_changes_are_undone_by_their_opposites() -> None:
    made = changes()
    np.testing.assert_allclose(made["yaw +2°"] @ made["yaw -2°"], np.eye(4), atol=1e-12)
    assert made["roll +4°"][0, 0] == pytest.approx(np.cos(np.deg2rad(4)))
