"""KITTI raw: synchronised drives with the left colour camera and full scans.

``2011_09_26/{calib_cam_to_cam.txt, calib_velo_to_cam.txt, 2011_09_26_drive_0060_sync/{image_02, velodyne_points}}``;
each sensor folder holds ``data/0000000000.png`` or ``.bin`` and may hold ``timestamps.txt``. Other files (oxts, the
other cameras) are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from simipu_core.config.data import SyntheticConfig
from simipu_core.data.formats.files import read_text
from simipu_core.data.formats.kitti_calibration import Calibration, Matrix, camera_matrices
from simipu_core.data.frames import (
    IMAGE_SUFFIXES,
    BrokenFrameError,
    Files,
    Frame,
    Listing,
    attempt,
    files_by_stem,
    flat,
    natural,
)
from simipu_core.data.sources.base import Benchmark, Found, Official
from simipu_core.data.sources.kitti_shared import KittiSource, count_listed, eigen_benchmark
from simipu_core.data.splits import eigen_test, eigen_train

_A_TIME = "2011-09-26 13:02:25.594360375"


@dataclass(frozen=True)
class Drive:
    """The files of one synchronised drive, by frame stem (``0000000000``)."""

    folder: Path
    images: Files
    scans: Files
    image_times: list[str]
    scan_times: list[str]

    @property
    def name(self) -> str:
        """Folder name, ``2011_09_26_drive_0060_sync``."""
        return self.folder.name

    @cached_property
    def cameras(self) -> tuple[Matrix, Matrix]:
        """Intrinsics (3, 3) and lidar_to_camera (4, 4) of the left colour camera.

        Raises:
            BrokenFrameError: a calibration file or line is missing.
        """
        date = self.folder.parent
        velo = Calibration(date / "calib_velo_to_cam.txt")
        velo_to_cam = np.hstack([velo.matrix("R", 3, 3), velo.matrix("T", 3, 1)])
        return camera_matrices(Calibration(date / "calib_cam_to_cam.txt"), "P_rect_02", "R_rect_00", velo_to_cam)

    def frame(self, source: str, stem: str) -> Frame:
        """One frame, with its scan if it has one.

        Raises:
            BrokenFrameError: no image, or calibration or timestamps cannot be read.
        """
        image, scan = self.images.find(stem), self.scans.find(stem)
        if image is None:
            reason = f"the image is missing{self.images.instead(stem)}"
            raise BrokenFrameError(self.folder / "image_02/data" / f"{stem}.png", reason)
        intrinsics, lidar_to_camera = self.cameras
        return Frame(
            sample_id=f"{source}/{self.name}/{stem}",
            source=source,
            sequence=self.name,
            image=image,
            intrinsics=flat(intrinsics),
            points=scan,
            lidar_to_camera=flat(lidar_to_camera) if scan else None,
            timestamp_us=_timestamp(self.folder / "image_02", self.image_times, stem),
            points_timestamp_us=_timestamp(self.folder / "velodyne_points", self.scan_times, stem) if scan else None,
        )


def drives(folder: Path) -> Iterator[Drive]:
    """The synchronised drives below a folder of dates, sorted."""
    for path in sorted(folder.glob("*/*_sync")):
        if (path / "image_02").is_dir():
            yield Drive(
                path,
                files_by_stem(path / "image_02/data", *IMAGE_SUFFIXES),
                files_by_stem(path / "velodyne_points/data", ".bin"),
                _lines(path / "image_02/timestamps.txt"),
                _lines(path / "velodyne_points/timestamps.txt"),
            )


class KittiRaw(KittiSource):
    """KITTI raw, kitti_raw/: synchronised drives with scans, without depth maps."""

    kind: Literal["kitti_raw"] = "kitti_raw"

    expected: ClassVar = "kitti_raw/<date>/<drive>_sync/image_02"

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds dates with drives."""
        return any(folder.glob("*/*_sync/image_02"))

    def each_frame(self, folder: Path) -> Listing:
        """All frames of all drives, by drive and number; those without image, scan or sound calibration as Rejected."""
        for drive in drives(folder):
            for stem in sorted(drive.images.keys() | drive.scans.keys(), key=natural):
                yield attempt(f"{self.kind}/{drive.name}/{stem}", drive.name, partial(self._frame, drive, stem))

    def _frame(self, drive: Drive, stem: str) -> Frame:
        if stem not in drive.scans:
            scan = drive.folder / "velodyne_points/data" / f"{stem}.bin"
            reason = f"the image {drive.images[stem].name} has no such scan{drive.scans.instead(stem)}"
            raise BrokenFrameError(scan, reason)
        return drive.frame(self.kind, stem)

    def official(self, found: Found, root: Path) -> list[Official]:
        """Frames of the Eigen split."""
        if self.every > 1:
            return []
        lists = {"training": eigen_train(), "test": eigen_test(with_groundtruth=False)}
        return [Official(f"Eigen {name} frames", len(each), count_listed(each, found)) for name, each in lists.items()]

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes."""
        return self.rendered_drives(world)

    @classmethod
    def benchmark(cls) -> Benchmark:
        """The test drives of the Eigen split."""
        return eigen_benchmark()


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path, errors="replace").splitlines()
    except OSError:
        return []


def _timestamp(sensor: Path, lines: list[str], stem: str) -> int | None:
    """Microseconds since 1970 of a frame (line n belongs to frame n), or None where there is no time."""
    index = int(stem) if stem.isdecimal() else len(lines)
    if index >= len(lines) or not lines[index].strip():
        return None
    try:
        time = datetime.fromisoformat(lines[index].strip()).replace(tzinfo=UTC)
    except ValueError:
        raise BrokenFrameError(sensor / "timestamps.txt", f"line {index + 1} is not a time such as {_A_TIME}") from None
    return round(time.timestamp() * 1_000_000)
