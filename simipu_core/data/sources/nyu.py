"""NYU Depth v2 in the sync layout: ``<scene>/{rgb_00045.jpg, sync_depth_00045.png}`` in folders of any depth.

In the published layout ``official_splits/test/<scene>`` holds the 654 test images, and a list names the 24,231 of
``sync/<scene>`` that train. A list has one frame a line, image and depth map and, perhaps, the focal length, apart by
spaces or commas; its paths start from the layout's folder, from ``sync/`` or from ``official_splits/test/`` in it.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from simipu_core.config.data import SyntheticConfig
from simipu_core.data import splits
from simipu_core.data.formats.files import read_text
from simipu_core.data.frames import (
    IMAGE_SUFFIXES,
    BrokenFrameError,
    Frame,
    Listing,
    attempt,
    double,
    files_by_stem,
    natural,
)
from simipu_core.data.sources.base import INDOOR, Found, Framing, Official, Source, Typical
from simipu_core.data.splits import Split
from simipu_core.errors import SimipuError

DEPTH_SCALE = 1000.0
INTRINSICS = (518.8579, 0.0, 325.5824, 0.0, 519.4696, 253.7362, 0.0, 0.0, 1.0)
"""Of the colour camera, 480×640 pixels, from the data set's toolbox."""
TYPICAL = Typical((480, 640), 49_000, 90_000, 0, 174_000, 0)
FRAMING = Framing("nyu", (416, 544), ("eigen_nyu",))
LICENCE = "NYU Depth v2 (no licence stated)"
TESTING = 654
_TRAINING = 24_231
_BASES = ("", "sync", "official_splits/test")
_VIEWS_PER_ROOM = 4
_Listed = tuple[Path, Path, Path | None]
"""Image, depth map, and another file that could be the image."""


class Nyu(Source):
    """NYU Depth v2 in the sync layout, nyu/: images and depth maps of rooms, without scans."""

    kind: Literal["nyu"] = "nyu"
    split: Literal["none", "within_sequence", "by_sequence", "folders"] = "none"  # type: ignore[assignment]
    """`none`: all frames train · `within_sequence`: the first `train_share` of each scene trains, the rest evaluates ·
    `by_sequence`: whole scenes · `folders`: what lies under a folder called `test` evaluates."""
    lists: tuple[str, ...] = ()
    """Text files below the root that list the frames to read, one a line: image, depth map and, perhaps, focal length,
    apart by spaces or commas, such as nyudepthv2_train_files_with_gt.txt. None: all frames are read."""

    expected: ClassVar = "nyu/<scene>/rgb_*.jpg"
    licence: ClassVar = LICENCE
    framing: ClassVar = FRAMING
    typical: ClassVar = TYPICAL
    plausible_depth: ClassVar = INDOOR
    shown_depth: ClassVar = 10.0

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds images or lists of this layout."""
        return any(folder.rglob("rgb_*")) or any(folder.glob("*.csv"))

    def each_frame(self, folder: Path) -> Listing:
        """All images below the folder, or those that `lists` name, in order; those without depth as Rejected.

        Raises:
            SimipuError: a list cannot be read or leads out of the folder.
        """
        listed = [pair for name in self.lists for pair in _listed(folder, name)] if self.lists else list(_all(folder))
        for image, depth, twin in listed:
            scene = image.parent.relative_to(folder).as_posix()
            sample_id = f"{self.kind}/{scene}/{image.stem}"
            yield attempt(sample_id, scene, partial(self._frame, sample_id, scene, image, depth, twin))

    def _frame(self, sample_id: str, scene: str, image: Path, depth: Path, twin: Path | None) -> Frame:
        if twin:
            raise double(image, twin)
        if not image.is_file():
            raise BrokenFrameError(image, "the image is missing")
        if not depth.is_file():
            raise BrokenFrameError(depth, f"the image {image.name} has no such depth map")
        return Frame(
            sample_id=sample_id,
            source=self.kind,
            sequence=scene,
            image=image,
            intrinsics=INTRINSICS,
            depth=depth,
            depth_scale=DEPTH_SCALE,
        )

    def assign(self, found: Found) -> list[Split | None]:
        """Say which frames train and which evaluate."""
        return splits.by_folder(found) if self.split == "folders" else super().assign(found)

    def official(self, found: Found, root: Path) -> list[Official]:
        """The published selection for training, and the official test images."""
        testing = splits.by_folder(found).count("eval")
        return [
            Official("NYU training frames", _TRAINING, len(found) - testing),
            Official("NYU official test frames", TESTING, testing),
        ]

    def published(self) -> tuple[int, int] | None:
        """Frames of the published split."""
        return (_TRAINING, TESTING) if self.split == "folders" and self.every == 1 else None

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Of what `simipu synthesize` writes: every third room is a test scene."""
        rooms = [f"{'test/' if room % 3 == 2 else ''}{room:04d}" for room in range(world.rooms)]
        return [room for room in rooms for _ in range(_VIEWS_PER_ROOM)]

    def typical_rendered(self, world: SyntheticConfig) -> Typical:
        """Size of a rendered room's files."""
        return Typical(TYPICAL.size, 87_000, 87_000, 0, 175_000, 0)


def _all(folder: Path) -> Iterator[_Listed]:
    """Every frame below the folder."""
    scenes = {image.parent for image in folder.rglob("rgb_*")}
    for scene in sorted(scenes, key=lambda scene: [natural(part) for part in scene.parts]):
        images = files_by_stem(scene, *IMAGE_SUFFIXES)
        for stem, image in images.items():
            if stem.startswith("rgb_"):
                depth = scene / f"{stem.replace('rgb_', 'sync_depth_', 1)}.png"
                yield image, depth, images.doubles.get(stem)


def _listed(folder: Path, name: str) -> list[_Listed]:
    """Frame of every line of a list, below the one of `_BASES` that holds the first image found."""
    file = folder / name
    try:
        lines = [line.replace(",", " ").split() for line in read_text(file).splitlines()]
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
    return [(base / image, base / depth, None) for image, depth in pairs]
