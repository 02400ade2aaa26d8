"""Small real inputs with a fault: each is named, or said to be beyond telling; the samples themselves are sound."""

import shutil
from pathlib import Path

import pytest

from simipu_core.checking.report import Report, Severity
from simipu_core.config import PairConfig
from simipu_core.stages.check import check
from tests.sources import any_source

FRAME = "kitti_object/training/{}/000001.{}"
UNKNOWN = "whether the calibration is right cannot be told from 1 frame"


def examine(real_data: Path, case: str, root: Path) -> Report:
    """A case with what it lacks: scan and calibration of a frame of the sample."""
    shutil.copytree(real_data / "faults" / case, root, dirs_exist_ok=True)
    for part, suffix in (("calib", "txt"), ("velodyne", "bin")):
        for file in root.glob(f"kitti_object/training/{part}/[0-9]*.{suffix}"):
            shutil.copyfile(real_data / FRAME.format(part, suffix), file)
    kind = "logs" if (root / "logs").is_dir() else "kitti_object"
    return check(any_source(kind=kind), PairConfig(), root=str(root))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("case", "severity", "name", "words"),
    [
        ("cx_cy_swapped", Severity.FAULT, "image centre", "cx and cy are exchanged"),
        ("intrinsics_half", Severity.FAULT, "image centre", "the intrinsics are those of images 0.53 times as large"),
        (
            "images_resized_half",
            Severity.FAULT,
            "image centre",
            "the intrinsics are those of images 1.9 times as large",
        ),
        ("reflectance_65535", Severity.FAULT, "reflectance", "the brightest points hardly reflect"),
        ("us_as_ns", Severity.FAULT, "time unit", "1000 times as large they would be of the year 2018"),
        ("quaternion_wxyz_as_xyzw", Severity.WARNING, "edge alignment", UNKNOWN),  # which turns it by little
        ("own_logs_small_camera", Severity.WARNING, "edge alignment", UNKNOWN),
    ],
)
def test_a_damaged_copy_is_named_or_said_to_be_beyond_telling(
    real_data: Path, tmp_path: Path, case: str, severity: Severity, name: str, words: str
) -> None:
    report = examine(real_data, case, tmp_path)
    told = [finding for finding in report.findings if finding.check == name]
    assert [each.severity for each in told] == [severity], report.findings
    assert words in told[0].what


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "options"),
    [("kitti_object", {}), ("kitti_raw", {"every": 3}), ("kitti_depth", {}), ("nyu", {})]
    + [
        ("nuscenes", {"camera": camera})
        for camera in ("front", "front_left", "front_right", "back", "back_left", "back_right")
    ],
)
def test_the_samples_raise_no_false_alarm(real_data: Path, kind: str, options: dict[str, object]) -> None:
    report = check(any_source(kind=kind, **options), PairConfig(), root=str(real_data))
    assert not report.has_faults
    warned = [finding for finding in report.findings if finding.severity is Severity.WARNING]
    assert all(each.check in ("count", "leakage") or "cannot be told from 1 frame" in each.what for each in warned)
