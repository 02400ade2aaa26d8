"""Readers of public file layouts, one file a layout; each has ``find(root)`` and ``frames(folder)``."""

from pathlib import Path

from simipu_core.config import SourceConfig
from simipu_core.data.sources import kitti, kitti_depth, kitti_object, kitti_raw, nyu
from simipu_core.data.sources.base import Frame, Listing, Rejected
from simipu_core.errors import SimipuError

__all__ = ["Frame", "Rejected", "list_frames"]

_EXPECTED = {
    "kitti": "kitti_object/training/image_2 or kitti_raw/<date>/<drive>_sync/image_02",
    "kitti_object": "kitti_object/training/image_2",
    "kitti_raw": "kitti_raw/<date>/<drive>_sync/image_02",
    "kitti_depth": "kitti_depth/<drive>_sync/proj_depth/groundtruth/image_02 beside kitti_raw",
    "nyu": "nyu/<scene>/rgb_*.jpg",
}


def list_frames(source: SourceConfig, root: Path) -> list[Frame | Rejected]:
    """All frames of a source, complete or broken, without opening images and scans.

    Raises:
        SimipuError: the root does not hold the layout, or no frame.
    """
    found = list(_listing(source, root))
    if not found:
        raise SimipuError(
            f"{root}: holds no {source.kind} frames (looked for {_EXPECTED[source.kind]}); "
            "set `root` of pretrain_data or depth_data to the folder that holds them."
        )
    return found


def _listing(source: SourceConfig, root: Path) -> Listing:
    if source.kind == "kitti":
        return kitti.frames(root, source.drives_only)
    layout = {"kitti_object": kitti_object, "kitti_raw": kitti_raw, "kitti_depth": kitti_depth, "nyu": nyu}[source.kind]
    folder = layout.find(root)
    return layout.frames(folder) if folder else iter(())
