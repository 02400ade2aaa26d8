"""Waymo converted to the KITTI object layout, as 3D detection toolboxes do it (reference section 1.5).

``training/{image_0/0123045.png, velodyne/0123045.bin, calib/0123045.txt}``: an id is one digit for the split, three
for the segment and three for the frame. Only ids that begin with 0, Waymo's training split, are read; the converters
put the validation split, 1, into the same folder. A point is six floats: x, y, z in the vehicle frame, intensity,
elongation, time; its reflectance is tanh of the intensity. Unlike in `waymo`, the vehicle's motion between scan and
image is not known here.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.data.sources import kitti_object
from simipu_core.data.sources.base import Listing
from simipu_core.data.sources.scans import parse_points
from simipu_core.data.sources.waymo import CAMERAS

NAME = "waymo_kitti"
_TRAINING = "0"


def find(root: Path) -> Path | None:
    """Folder of the layout at or below the root, if there."""
    return next((folder for folder in (root / NAME, root) if (folder / "training").is_dir()), None)


def frames(folder: Path, camera: str) -> Listing:
    """Frames of one camera, sorted; those without image, scan or sound calibration as Rejected.

    Args:
        folder: the folder that holds ``training/``.
        camera: one of `waymo.CAMERAS`.
    """
    index = CAMERAS.index(camera)
    layout = kitti_object.Layout(NAME, f"image_{index}", f"P{index}", f"Tr_velo_to_cam_{index}", sequence_digits=4)
    training = folder / "training"
    stems = [stem for stem in layout.stems(training) if stem.startswith(_TRAINING)]
    return layout.frames(training, NAME, stems)


def parse(data: bytes) -> NDArray[np.float32]:
    """Points (N, 4) of a file: x, y, z in metres, tanh of the intensity.

    Raises:
        SimipuError: a reason to be put after the file's name.
    """
    points = parse_points(data, columns=6)[:, :4].copy()
    points[:, 3] = np.tanh(points[:, 3])
    return points
