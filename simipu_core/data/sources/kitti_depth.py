"""KITTI depth: images of KITTI raw with the official semi-dense ground truth (reference section 10).

``kitti_depth/[train/ or val/]<drive>/proj_depth/groundtruth/image_02/0000000005.png`` beside ``kitti_raw/``; the folder
names of the published tools (``data_depth_annotated``, ``gt_depth``; ``input`` for the images) do as well. A flat
sample, ``kitti_depth/{rgb, groundtruth}/<same name>.png``, comes without calibration and gets `DEFAULT_INTRINSICS`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from simipu_core.data.sources import kitti_raw
from simipu_core.data.sources.base import IMAGE_SUFFIXES, BrokenFrameError, Frame, Listing, attempt, files_by_stem
from simipu_core.data.sources.kitti_raw import Drive

NAME = "kitti_depth"
DEPTH_SCALE = 256.0
DEFAULT_INTRINSICS = (721.5377, 0.0, 609.5593, 0.0, 721.5377, 172.854, 0.0, 0.0, 1.0)
"""Left colour camera on 2011_09_26, the date of most drives."""

_TRUTH_FOLDERS = (NAME, "data_depth_annotated", "gt_depth")
_TRUTH = "*_sync/proj_depth/groundtruth/image_02"


def find(root: Path) -> Path | None:
    """The root, if it or a folder in it holds ground truth of this layout."""
    folder = _truth_folder(root)
    return root if (folder / "groundtruth").is_dir() or any(_truth_of_drives(folder)) else None


def frames(root: Path) -> Listing:
    """All frames with ground truth, sorted, with their scan if they have one.

    Args:
        root: holds the ground-truth folder and the folder of KITTI raw, or is both of them.
    """
    folder = _truth_folder(root)
    if (folder / "groundtruth").is_dir():
        yield from _flat_frames(folder)
        return
    raw = next((root / name for name in (kitti_raw.NAME, "input") if (root / name).is_dir()), root)
    drives = {drive.name: drive for drive in kitti_raw.drives(raw)}
    for truth in _truth_of_drives(folder):
        name = truth.parts[-4]
        for stem, depth in files_by_stem(truth, ".png").items():
            yield attempt(f"{NAME}/{name}/{stem}", name, partial(_frame, raw, drives.get(name), stem, depth))


def _truth_folder(root: Path) -> Path:
    return next((root / name for name in _TRUTH_FOLDERS if (root / name).is_dir()), root)


def _truth_of_drives(folder: Path) -> list[Path]:
    found = [path for prefix in ("", "train/", "val/") for path in folder.glob(prefix + _TRUTH)]
    return sorted(found, key=lambda path: path.parts[-4])


def _frame(raw: Path, drive: Drive | None, stem: str, depth: Path) -> Frame:
    if drive is None:
        name = depth.parts[-5]
        raise BrokenFrameError(raw / name[:10] / name, f"the ground truth {depth.name} has no such drive")
    return replace(drive.frame(NAME, stem), depth=depth, depth_scale=DEPTH_SCALE)


def _flat_frames(folder: Path) -> Listing:
    images = files_by_stem(folder / "rgb", *IMAGE_SUFFIXES)
    for stem, depth in files_by_stem(folder / "groundtruth", ".png").items():
        yield attempt(f"{NAME}/flat/{stem}", "flat", partial(_flat_frame, folder, images.get(stem), depth))


def _flat_frame(folder: Path, image: Path | None, depth: Path) -> Frame:
    if image is None:
        raise BrokenFrameError(folder / "rgb" / depth.name, "the ground truth has no such image")
    return Frame(
        sample_id=f"{NAME}/flat/{depth.stem}",
        source=NAME,
        sequence="flat",
        image=image,
        intrinsics=DEFAULT_INTRINSICS,
        depth=depth,
        depth_scale=DEPTH_SCALE,
    )
