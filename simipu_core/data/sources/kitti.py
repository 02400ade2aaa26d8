"""KITTI object and KITTI raw together: every image-LiDAR pair that KITTI has."""

from pathlib import Path

from simipu_core.data.sources import kitti_object, kitti_raw
from simipu_core.data.sources.base import Listing


def frames(root: Path, drives_only: bool = False) -> Listing:
    """Frames of both layouts, object frames first.

    Args:
        root: holds ``kitti_object/``, ``kitti_raw/`` or both.
        drives_only: read the object frames only where there is no raw drive.
    """
    objects, drives = kitti_object.find(root), kitti_raw.find(root)
    if objects and not (drives and drives_only):
        yield from kitti_object.frames(objects)
    if drives:
        yield from kitti_raw.frames(drives)
