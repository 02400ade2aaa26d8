"""KITTI object detection: independent frames with image, full scan and calibration (docs/method.md, "Frames").

``training/{image_2/000001.png, velodyne/000001.bin, calib/000001.txt}``, and ``testing/`` where it is asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from simipu_core.config.data import SyntheticConfig
from simipu_core.data.formats.files import read_text
from simipu_core.data.formats.kitti_calibration import Calibration, camera_matrices
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
from simipu_core.data.sources.base import Found, Official, Origins, OwnSplit
from simipu_core.data.sources.kitti_raw import KittiRaw, drives
from simipu_core.data.sources.kitti_shared import KittiSource, eigen_benchmark
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path
from simipu_core.storage.s3 import THREADS

_COUNTS = {"training": 7_481, "train_half": 3_712, "train_half_and_testing": 11_230}
_TESTING = 7_518
_MAPPING, _ORDER = "train_mapping.txt", "train_rand.txt"
_MAPPING_FOLDERS = ("", "mapping", "devkit/mapping", "training", "kitti_object", "kitti_object/mapping")


@dataclass(frozen=True)
class ObjectLayout:
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
        """Ids that have an image or a scan, in natural order."""
        images = files_by_stem(folder / self.images, *IMAGE_SUFFIXES)
        return sorted(images.keys() | files_by_stem(folder / "velodyne", ".bin").keys(), key=natural)

    def frames(self, folder: Path, prefix: str, stems: Iterable[str]) -> Listing:
        """Frames of some ids; those without image, scan or sound calibration as Rejected.

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
            make = partial(self._frame, folder, f"{prefix}/{stem}", sequence, images, scans)
            work.append(partial(attempt, f"{prefix}/{stem}", sequence, make))
        if isinstance(folder, S3Path):  # each frame has a calibration file of its own
            from simipu_core.parallel import in_threads  # loads OpenCV

            yield from in_threads(work, THREADS)
        else:
            yield from (each() for each in work)

    def _frame(self, folder: Path, sample_id: str, sequence: str, images: Files, scans: Files) -> Frame:
        stem = sample_id.rpartition("/")[2]
        image, scan = images.find(stem), scans.find(stem)
        if image is None:
            reason = f"the scan {stem}.bin has no such image" if scan else "the image is missing"
            raise BrokenFrameError(folder / self.images / f"{stem}.png", reason + images.instead(stem))
        if scan is None:
            reason = f"the image {image.name} has no such scan{scans.instead(stem)}"
            raise BrokenFrameError(folder / "velodyne" / f"{stem}.bin", reason)
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


KITTI = ObjectLayout("kitti_object", "image_2", "P2", "Tr_velo_to_cam")


class KittiObject(KittiSource):
    """KITTI object detection, kitti_object/: independent frames with scans, without depth maps."""

    kind: Literal["kitti_object"] = "kitti_object"
    split: OwnSplit = "none"
    """`none`: all frames train · `within_sequence`: the first `train_share` of all trains, the rest evaluates."""
    frames: Literal["training", "train_half", "train_half_and_testing"] = "training"
    """All 7,481 frames of training/; the 3,712 of them that ImageSets/train.txt lists (the published choice); or those
    and the 7,518 of testing/, 11,230 in all."""

    expected: ClassVar = "kitti_object/training/image_2"

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds ``training/``."""
        return (folder / "training").is_dir()

    def each_frame(self, folder: Path) -> Listing:
        """A set of frames, sorted; those without image, scan or sound calibration as Rejected.

        Raises:
            SimipuError: the set needs a list or folder that is not there.
        """
        training, testing = folder / "training", folder / "testing"
        if self.frames == "training":
            yield from KITTI.frames(training, self.kind, KITTI.stems(training))
            return
        yield from KITTI.frames(training, self.kind, _train_half(folder / "ImageSets" / "train.txt"))
        if self.frames == "train_half_and_testing":
            if not testing.is_dir():
                raise SimipuError(
                    f"{testing}: no such folder; download KITTI's testing images, scans and calibration too."
                )
            yield from KITTI.frames(testing, f"{self.kind}/testing", KITTI.stems(testing))

    def official(self, found: Found, root: Path) -> list[Official]:
        """The set's number of frames, and that of testing/ where it is there."""
        made = [Official(f"KITTI object frames ({self.frames})", self.thinned(_COUNTS[self.frames]), len(found))]
        folder = self.find(root)
        testing = len(KITTI.stems(folder / "testing")) if folder else 0
        return [*made, Official("KITTI object testing frames", _TESTING, testing)] if testing else made

    def published(self) -> tuple[int, int] | None:
        """Frames of the set."""
        return (self.thinned(_COUNTS[self.frames]), 0) if self.split == "none" else None

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes."""
        return ["objects"] * world.object_frames if self.frames == "training" else []

    @classmethod
    def origins(cls, root: Path) -> Origins:
        """Drives of the frames, from the development kit's mapping; else the Eigen test drives beside the data."""
        benchmark = eigen_benchmark()
        mapped = mapped_drives(root)
        known = None if mapped is None else {f"kitti_object/{i:06d}": drive for i, drive in enumerate(mapped)}
        raw = next((folder for place in (root, root.parent) if (folder := KittiRaw().find(place))), None)
        beside = drives(raw) if raw and known is None else ()
        images = {
            image: drive.name
            for drive in beside
            if drive.name in benchmark.sequences
            for image in drive.images.values()
        }
        return Origins(
            frames="KITTI object frames",
            benchmark=benchmark,
            file=_MAPPING,
            sequences=known,
            images=images,
            why_unknown=f"neither {_MAPPING} and {_ORDER} nor these drives of kitti_raw are beside the data",
            mend="Put the mapping folder of KITTI's object development kit beside the data.",
        )


def mapped_drives(root: Path) -> list[str] | None:
    """Raw drive of each KITTI object training frame by its number, from the development kit's two mapping files.

    Line n of ``train_mapping.txt`` is ``date drive frame``; ``train_rand.txt`` holds, for each frame, its 1-based line.

    Returns:
        Drives, ``2011_09_26_drive_0005_sync``; None where the files are not beside the data.

    Raises:
        SimipuError: they are there but do not fit each other.
    """
    places = [root / folder for folder in _MAPPING_FOLDERS] + [root.parent / "mapping"]
    place = next((each for each in places if (each / _MAPPING).is_file() and (each / _ORDER).is_file()), None)
    if place is None:
        return None
    try:
        lines = read_text(place / _MAPPING).split("\n")
        order = [int(number) for number in read_text(place / _ORDER).replace(",", " ").split()]
        if min(order, default=1) < 1:
            raise ValueError
        return [lines[number - 1].split()[1] for number in order]
    except (OSError, ValueError, IndexError):
        raise SimipuError(
            f"{place}: {_MAPPING} and {_ORDER} do not fit each other; take both from KITTI's object development kit."
        ) from None


def _train_half(file: Path) -> list[str]:
    try:
        return sorted(read_text(file).split())
    except (OSError, UnicodeDecodeError):
        raise SimipuError(
            f"{file}: cannot be read; KITTI does not come with this list of 3,712 training frames: take train.txt "
            "from the ImageSets folder of a 3D detection toolbox (MMDetection3D and OpenPCDet have it), or set "
            "`frames` to training."
        ) from None
