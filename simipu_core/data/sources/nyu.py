"""NYU Depth v2 in the sync layout: ``<scene>/{rgb_00045.jpg, sync_depth_00045.png}`` in folders of any depth.

In the published layout ``official_splits/test/<scene>`` holds the 654 test images, and a list names the 24,231 of
``sync/<scene>`` that train. A list has one frame a line, image and depth map and, perhaps, the focal length, apart by
spaces or commas; its paths start from the layout's folder, from ``sync/`` or from ``official_splits/test/`` in it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from simipu_core.data.sources.base import IMAGE_SUFFIXES, BrokenFrameError, Frame, Listing, attempt
from simipu_core.errors import SimipuError

NAME = "nyu"
DEPTH_SCALE = 1000.0
INTRINSICS = (518.8579, 0.0, 325.5824, 0.0, 519.4696, 253.7362, 0.0, 0.0, 1.0)
"""Of the colour camera, 480×640 pixels, from the data set's toolbox."""
_BASES = ("", "sync", "official_splits/test")


def find(root: Path) -> Path | None:
    """Folder of the layout at or below the root, if there."""
    folders = (root / NAME, root)
    return next((folder for folder in folders if any(folder.rglob("rgb_*")) or any(folder.glob("*.csv"))), None)


def frames(folder: Path, lists: Sequence[str] = ()) -> Listing:
    """All images below the folder, sorted, or those that lists name, in their order; those without depth as Rejected.

    Args:
        folder: the layout's folder.
        lists: paths of lists below the folder.

    Raises:
        SimipuError: a list cannot be read or leads out of the folder.
    """
    listed = [pair for name in lists for pair in _listed(folder, name)] if lists else list(_all(folder))
    for image, depth in listed:
        scene = image.parent.relative_to(folder).as_posix()
        sample_id = f"{NAME}/{scene}/{image.stem}"
        yield attempt(sample_id, scene, partial(_frame, sample_id, scene, image, depth))


def _all(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Image and depth map of every frame below the folder."""
    for image in sorted(path for path in folder.rglob("rgb_*") if path.suffix.lower() in IMAGE_SUFFIXES):
        yield image, image.with_name(image.stem.replace("rgb_", "sync_depth_", 1) + ".png")


def _listed(folder: Path, name: str) -> list[tuple[Path, Path]]:
    """Image and depth map of every line of a list, below the one of `_BASES` that holds the first image found."""
    file = folder / name
    try:
        lines = [line.replace(",", " ").split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise SimipuError(f"{file}: this list of frames cannot be read; correct `lists` or put it there.") from None
    pairs = []
    for number, words in enumerate(lines, 1):
        if not words:
            continue
        paths = [PurePosixPath(word.lstrip("/")) for word in words[:2]]
        if len(paths) < 2 or any(".." in path.parts or not path.name or "\0" in str(path) for path in paths):
            raise SimipuError(
                f"{file}: line {number} names no image and depth map below the folder; correct this list of frames."
            )
        pairs.append((paths[0], paths[1]))
    bases = [folder / base for base in _BASES]
    base = next((base for image, _ in pairs for base in bases if (base / image).is_file()), folder)
    return [(base / image, base / depth) for image, depth in pairs]


def _frame(sample_id: str, scene: str, image: Path, depth: Path) -> Frame:
    if not image.is_file():
        raise BrokenFrameError(image, "the image is missing")
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
