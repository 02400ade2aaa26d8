"""Waymo converted to the KITTI object layout, as 3D detection toolboxes do it (docs/method.md, "Frames").

``training/{image_0/0123045.png, velodyne/0123045.bin, calib/0123045.txt}``: an id is one digit for the split, three
for the segment and three for the frame. Only ids that begin with 0, Waymo's training split, are read; the converters
put the validation split, 1, into the same folder. A point is six floats: x, y, z in the vehicle frame, intensity,
elongation, time; its reflectance is tanh of the intensity. Unlike in `waymo`, the vehicle's motion between scan and
image is not known here.
"""

from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.formats.range_images import squashed
from simipu_core.data.formats.scans import Scan, parse_points
from simipu_core.data.frames import Listing
from simipu_core.data.sources.base import Found, Official, Source, make_scan
from simipu_core.data.sources.kitti_object import ObjectLayout
from simipu_core.data.sources.waymo import LICENCE, TRAINING_FRAMES, TYPICAL, Camera, official_split

_TRAINING = "0"


class WaymoKitti(Source):
    """Waymo converted to the KITTI object layout, waymo_kitti/: one of five cameras, and scans."""

    kind: Literal["waymo_kitti"] = "waymo_kitti"
    camera: Camera = "front"
    """The camera whose images are read."""

    expected: ClassVar = "waymo_kitti/training/image_0"
    licence: ClassVar = LICENCE
    typical: ClassVar = TYPICAL

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds ``training/``."""
        return (folder / "training").is_dir()

    def each_frame(self, folder: Path) -> Listing:
        """Frames of the camera, sorted; those without image, scan or sound calibration as Rejected."""
        index = get_args(Camera).index(self.camera)
        names = (f"image_{index}", f"P{index}", f"Tr_velo_to_cam_{index}")
        layout = ObjectLayout(self.kind, *names, sequence_digits=4)
        training = folder / "training"
        stems = [stem for stem in layout.stems(training) if stem.startswith(_TRAINING)]
        return layout.frames(training, self.kind, stems)

    @classmethod
    def read_scan(cls, file: Path) -> Scan:
        """The points of a scan."""
        return make_scan(file, cls.read_file(file), _parse)

    def official(self, found: Found, root: Path) -> list[Official]:
        """Segments and frames of the training split."""
        return official_split(found, self.every)

    def published(self) -> tuple[int, int] | None:
        """Frames of the training split."""
        return (self.thinned(TRAINING_FRAMES), 0) if self.split == "none" else None


def _parse(data: bytes) -> NDArray[np.float32]:
    """Points (N, 4) of a file: x, y, z in metres, tanh of the intensity."""
    points = parse_points(data, columns=6)[:, :4].copy()
    points[:, 3] = squashed(points[:, 3])
    return points
