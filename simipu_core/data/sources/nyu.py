"""NYU Depth v2 in the sync layout: ``<scene>/{rgb_00045.jpg, sync_depth_00045.png}`` in folders of any depth.

In the published layout ``official_splits/test/<scene>`` holds the 654 test images.
"""

from functools import partial
from pathlib import Path

from simipu_core.data.sources.base import IMAGE_SUFFIXES, BrokenFrameError, Frame, Listing, attempt

NAME = "nyu"
DEPTH_SCALE = 1000.0
INTRINSICS = (518.8579, 0.0, 325.5824, 0.0, 519.4696, 253.7362, 0.0, 0.0, 1.0)
"""Of the colour camera, 480×640 pixels, from the data set's toolbox."""


def find(root: Path) -> Path | None:
    """Folder of the layout at or below the root, if there."""
    return next((folder for folder in (root / NAME, root) if any(folder.rglob("rgb_*"))), None)


def frames(folder: Path) -> Listing:
    """All images below the folder, sorted; those without depth as Rejected."""
    for image in sorted(path for path in folder.rglob("rgb_*") if path.suffix.lower() in IMAGE_SUFFIXES):
        scene = image.parent.relative_to(folder).as_posix()
        sample_id = f"{NAME}/{scene}/{image.stem}"
        yield attempt(sample_id, scene, partial(_frame, sample_id, scene, image))


def _frame(sample_id: str, scene: str, image: Path) -> Frame:
    depth = image.with_name(image.stem.replace("rgb_", "sync_depth_", 1) + ".png")
    if not depth.is_file():
        raise BrokenFrameError(depth, f"the image {image.name} has no such depth map")
    return Frame(
        sample_id=sample_id,
        source=NAME,
        sequence=scene,
        image=image,
        intrinsics=INTRINSICS,
        depth=depth,
        depth_scale=DEPTH_SCALE,
    )
