"""KITTI object detection: independent frames with image, full scan and calibration (reference section 1.1).

``training/{image_2/000001.png, velodyne/000001.bin, calib/000001.txt}``. The testing folder is not read.
"""

from functools import partial
from pathlib import Path

from simipu_core.data.sources.base import (
    IMAGE_SUFFIXES,
    BrokenFrameError,
    Frame,
    Listing,
    attempt,
    files_by_stem,
    flat,
)
from simipu_core.data.sources.calibration import Calibration, camera_matrices

NAME = "kitti_object"


def find(root: Path) -> Path | None:
    """Folder of the layout at or below the root, if there."""
    return next((folder for folder in (root / NAME, root) if (folder / "training").is_dir()), None)


def frames(folder: Path) -> Listing:
    """All frames of ``training/``, sorted; those without image, scan or sound calibration as Rejected.

    Args:
        folder: the folder that holds ``training/``.
    """
    training = folder / "training"
    images = files_by_stem(training / "image_2", *IMAGE_SUFFIXES)
    scans = files_by_stem(training / "velodyne", ".bin")
    for stem in sorted(images.keys() | scans.keys()):
        yield attempt(f"{NAME}/{stem}", NAME, partial(_frame, training, stem, images.get(stem), scans.get(stem)))


def _frame(training: Path, stem: str, image: Path | None, scan: Path | None) -> Frame:
    if image is None:
        raise BrokenFrameError(training / "image_2" / f"{stem}.png", f"the scan {stem}.bin has no such image")
    if scan is None:
        raise BrokenFrameError(training / "velodyne" / f"{stem}.bin", f"the image {image.name} has no such scan")
    calibration = Calibration(training / "calib" / f"{stem}.txt")
    velo_to_cam = calibration.matrix("Tr_velo_to_cam", 3, 4)
    intrinsics, lidar_to_camera = camera_matrices(calibration, "P2", "R0_rect", velo_to_cam)
    return Frame(
        sample_id=f"{NAME}/{stem}",
        source=NAME,
        sequence=NAME,
        image=image,
        intrinsics=flat(intrinsics),
        points=scan,
        lidar_to_camera=flat(lidar_to_camera),
    )
