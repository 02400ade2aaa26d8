"""Readers of public file layouts, one file a layout; each has ``find(root)`` and ``frames(folder, …)``."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from simipu_core.config import SourceConfig
from simipu_core.data.sources import (
    kitti,
    kitti_depth,
    kitti_object,
    kitti_raw,
    logs,
    nuscenes,
    nyu,
    nyu_labelled,
    waymo,
    waymo_kitti,
)
from simipu_core.data.sources.base import Frame, Listing, Rejected
from simipu_core.errors import SimipuError

__all__ = ["Frame", "Rejected", "list_frames"]


class _Layout(NamedTuple):
    expected: str
    find: Callable[[Path], Path | None]
    frames: Callable[[Path, SourceConfig], Listing]


_LAYOUTS = {
    "kitti": _Layout(
        "kitti_object/training/image_2 or kitti_raw/<date>/<drive>_sync/image_02",
        lambda root: root,
        lambda folder, source: kitti.frames(folder, source.drives_only),
    ),
    "kitti_object": _Layout(
        "kitti_object/training/image_2",
        kitti_object.find,
        lambda folder, source: kitti_object.frames(folder, source.frames),
    ),
    "kitti_raw": _Layout(
        "kitti_raw/<date>/<drive>_sync/image_02", kitti_raw.find, lambda folder, _: kitti_raw.frames(folder)
    ),
    "kitti_depth": _Layout(
        "kitti_depth/<drive>_sync/proj_depth/groundtruth/image_02 beside kitti_raw",
        kitti_depth.find,
        lambda folder, _: kitti_depth.frames(folder),
    ),
    "logs": _Layout(
        "logs/<sequence>/images/<camera>",
        logs.find,
        lambda folder, source: logs.frames(folder, source.log_cameras, source.log_lidar),
    ),
    "nyu": _Layout("nyu/<scene>/rgb_*.jpg", nyu.find, lambda folder, source: nyu.frames(folder, source.lists)),
    "nyu_labelled": _Layout(
        f"nyu_labelled/{nyu_labelled.FILE}",
        nyu_labelled.find,
        lambda folder, source: nyu_labelled.frames(folder, source.depth),
    ),
    "waymo": _Layout(
        "waymo/[training/]camera_image/<segment>.parquet",
        waymo.find,
        lambda folder, source: waymo.frames(folder, source.camera, source.lidars, source.returns),
    ),
    "waymo_kitti": _Layout(
        "waymo_kitti/training/image_0",
        waymo_kitti.find,
        lambda folder, source: waymo_kitti.frames(folder, source.camera),
    ),
    "nuscenes": _Layout(
        "nuscenes/v1.0-trainval/sample.json",
        nuscenes.find,
        lambda folder, source: nuscenes.frames(folder, source.camera),
    ),
}


def list_frames(source: SourceConfig, root: Path) -> list[Frame | Rejected]:
    """The frames that a source's settings name, complete or broken, without opening images and scans.

    Raises:
        SimipuError: the root does not hold the layout, or no frame.
    """
    layout = _LAYOUTS[source.kind]
    folder = layout.find(root)
    found = list(islice(layout.frames(folder, source), 0, None, source.every)) if folder else []
    if not found:
        raise SimipuError(
            f"{root}: holds no {source.kind} frames (looked for {layout.expected}); "
            "set `root` of pretrain_data or depth_data to the folder that holds them."
        )
    return found
