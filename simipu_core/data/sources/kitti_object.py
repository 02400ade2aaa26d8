"""KITTI object detection: independent frames with image, full scan and calibration (reference section 1.1).

``training/{image_2/000001.png, velodyne/000001.bin, calib/000001.txt}``, and ``testing/`` where it is asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
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
from simipu_core.errors import SimipuError
from simipu_core.parallel import in_threads
from simipu_core.storage import S3Path
from simipu_core.storage.s3 import THREADS

NAME = "kitti_object"


@dataclass(frozen=True)
class Layout:
    """Names by which conversions of other data sets differ from KITTI's own."""

    source: str
    images: str
    """Folder of the camera's images."""
    projection: str
    """Calibration line of the camera's projection."""
    extrinsics: str
    """Calibration line from the scanner to the camera."""
    sequence_digits: int = 0
    """First digits of an id that tell its sequence; 0: frames are independent."""

    def stems(self, folder: Path) -> list[str]:
        """Ids that have an image or a scan, sorted."""
        images = files_by_stem(folder / self.images, *IMAGE_SUFFIXES)
        return sorted(images.keys() | files_by_stem(folder / "velodyne", ".bin").keys())

    def frames(self, folder: Path, prefix: str, stems: Iterable[str]) -> Listing:
        """Frames of the given ids; those without image, scan or sound calibration as Rejected.

        Args:
            folder: holds the folders of images, velodyne and calib.
            prefix: what sample ids begin with.
            stems: ids.
        """
        images = files_by_stem(folder / self.images, *IMAGE_SUFFIXES)
        scans = files_by_stem(folder / "velodyne", ".bin")
        work = []
        for stem in stems:
            sequence = stem[: self.sequence_digits] or self.source
            make = partial(self._frame, folder, f"{prefix}/{stem}", sequence, images.get(stem), scans.get(stem))
            work.append(partial(attempt, f"{prefix}/{stem}", sequence, make))
        if isinstance(folder, S3Path):  # each frame has a calibration file of its own
            yield from in_threads(work, THREADS)
        else:
            yield from (each() for each in work)

    def _frame(self, folder: Path, sample_id: str, sequence: str, image: Path | None, scan: Path | None) -> Frame:
        stem = sample_id.rpartition("/")[2]
        if image is None:
            reason = f"the scan {stem}.bin has no such image" if scan else "the image is missing"
            raise BrokenFrameError(folder / self.images / f"{stem}.png", reason)
        if scan is None:
            raise BrokenFrameError(folder / "velodyne" / f"{stem}.bin", f"the image {image.name} has no such scan")
        calibration = Calibration(folder / "calib" / f"{stem}.txt")
        velo_to_cam = calibration.matrix(self.extrinsics, 3, 4)
        intrinsics, lidar_to_camera = camera_matrices(calibration, self.projection, "R0_rect", velo_to_cam)
        return Frame(
            sample_id=sample_id,
            source=self.source,
            sequence=sequence,
            image=image,
            intrinsics=flat(intrinsics),
            points=scan,
            lidar_to_camera=flat(lidar_to_camera),
        )


KITTI = Layout(NAME, "image_2", "P2", "Tr_velo_to_cam")


def find(root: Path) -> Path | None:
    """Folder of the layout at or below the root, if there."""
    return next((folder for folder in (root / NAME, root) if (folder / "training").is_dir()), None)


def frames(folder: Path, chosen: str = "training") -> Listing:
    """A set of frames, sorted; those without image, scan or sound calibration as Rejected.

    Args:
        folder: the folder that holds ``training/``.
        chosen: `SourceConfig.frames`.

    Raises:
        SimipuError: the set needs a list or folder that is not there.
    """
    training, testing = folder / "training", folder / "testing"
    if chosen == "training":
        yield from KITTI.frames(training, NAME, KITTI.stems(training))
        return
    yield from KITTI.frames(training, NAME, _train_half(folder / "ImageSets" / "train.txt"))
    if chosen == "train_half_and_testing":
        if not testing.is_dir():
            raise SimipuError(f"{testing}: no such folder; download KITTI's testing images, scans and calibration too.")
        yield from KITTI.frames(testing, f"{NAME}/testing", KITTI.stems(testing))


def _train_half(file: Path) -> list[str]:
    try:
        return sorted(file.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        raise SimipuError(
            f"{file}: cannot be read; KITTI does not come with this list of 3,712 training frames: take train.txt "
            "from the ImageSets folder of a 3D detection toolbox (MMDetection3D and OpenPCDet have it), or set "
            "`frames` to training."
        ) from None
