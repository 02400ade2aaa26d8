"""What a data set is to the code: its options, how its frames are found and read, and what is known of it."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simipu_core.config.data import SyntheticConfig
from simipu_core.config.depth import Protocol
from simipu_core.config.section import ANY_SIZE, Address, Range, Section, Size, SizeRange
from simipu_core.data import splits
from simipu_core.data.formats.files import read_file
from simipu_core.data.formats.scans import Scan, measured, parse_points
from simipu_core.data.frames import ARCHIVES, BrokenFrameError, Frame, Listing, Rejected
from simipu_core.data.splits import Split
from simipu_core.errors import SimipuError

Found = Sequence[Frame | Rejected]
OwnSplit = Literal["none", "within_sequence", "by_sequence"]
"""Splits that every data set offers."""


class Typical(NamedTuple):
    """Mean bytes of a frame's files; what is not there has none."""

    size: Size
    """Height and width of the image, pixels."""
    image: int
    jpeg: int
    """Of the image as JPEG."""
    points: int
    """Of those in the image, as a shard holds them."""
    depth: int
    projected: int
    """Of a depth map made from the scan."""


class Plausible(NamedTuple):
    """Depths of usual scenes, metres."""

    median: Range
    largest: float


class Framing(NamedTuple):
    """Which parts of a camera's frames are trained on and scored, unless the experiment says otherwise."""

    fixed_crop: Literal["none", "kb", "nyu"]
    """`finetune.augment.fixed_crop`."""
    crop: Size
    """`finetune.augment.crop`."""
    protocols: tuple[Protocol, ...]
    """`evaluate.protocols`."""


INDOOR, OUTDOOR = Plausible((0.7, 7.0), 12.0), Plausible((3.0, 60.0), 130.0)


class Official(NamedTuple):
    """A published number of frames or sequences, and how many are here."""

    what: str
    number: int
    here: int


class Benchmark(NamedTuple):
    """A published test set, which training must not see."""

    name: str
    sequences: frozenset[str]


class Origins(NamedTuple):
    """Where the frames of a data set were taken that does not tell their sequences itself."""

    frames: str
    """The frames, in words."""
    benchmark: Benchmark
    """Test set whose sequences may be among them."""
    file: str
    """File that tells their sequences."""
    sequences: Mapping[str, str] | None
    """By sample_id, from that file; None where it is not there."""
    images: Mapping[Path, str]
    """Sequence by image, of the benchmark's sequences that lie beside the data: frames may be recognised by look."""
    why_unknown: str
    """Why neither tells, where neither does, in words."""
    mend: str
    """What would."""


class Source(Section):
    """A data set; a subclass in a file of its own says what is special about it.

    Options are fields; what is known beforehand of every copy of the data set are class variables. The defaults hold
    for a camera and a LiDAR on a car whose scans are little-endian float32 x, y, z, reflectance 0–1. The first line of
    a subclass's docstring explains its kind to users.
    """

    kind: str
    """Name of the data set."""
    root: Address = "data/raw"
    """Folder, or s3://bucket/prefix, that holds the layout's folder, which is named like the kind (kitti_object/, nyu/,
    …), or that folder itself."""
    every: int = Field(1, ge=1)
    """Read every so many-th frame, counted over all sequences in order (published for Waymo: 5)."""
    split: OwnSplit = "none"
    """`none`: all frames train · `within_sequence`: the first `train_share` of each sequence trains, the rest
    evaluates · `by_sequence`: whole sequences."""
    train_share: float = Field(2 / 3, gt=0, lt=1)
    """Share of frames or sequences that train, for `within_sequence` and `by_sequence`."""
    max_broken_share: float = Field(0.05, ge=0, le=1)
    """Largest tolerated share of broken frames, 0–1; more stops the step."""
    allow_faults: tuple[str, ...] = ()
    """Faults with which ingest goes on, by their names, e.g. [edge_alignment, duplicates]; others that the quick part
    of `simipu check` finds stop it."""
    image_sizes: SizeRange = ANY_SIZE
    """Least and largest height and width of an image, pixels; others are rejected. The pipeline narrows it to what the
    crops of `finetune.augment` and `evaluate.protocols` take."""

    expected: ClassVar[str]
    """What lies in the root, shown where nothing is found there."""
    licence: ClassVar[str]
    """Licence of the data."""

    framing: ClassVar[Framing] = Framing("none", (352, 640), ("whole_frame",))
    """Of any camera; benchmarks have their own."""
    typical: ClassVar[Typical] = Typical((375, 1242), 800_000, 190_000, 275_000, 170_000, 70_000)
    usual_share: ClassVar[Range] = (0.01, 1.0)
    """Usual share of a scan's points in the image."""
    dates: ClassVar[Mapping[Size, tuple[str, float]]] = {}
    """Calibration date and focal length, pixels, by height and width of the image."""
    plausible_depth: ClassVar[Plausible | None] = None
    """Depths of official maps; None where only scans can tell."""
    least_valid_share: ClassVar[float] = 0.0
    """Share of valid pixels below which an official depth map looks like a single raw scan."""
    shown_depth: ClassVar[float] = 80.0
    """Depth that is drawn as far away, metres."""

    @property
    def parts(self) -> "tuple[Source, ...]":
        """The sources that are read: this one, or those that it mixes."""
        return (self,)

    def content_options(self) -> dict[str, Any]:
        """The options that decide which frames are in a catalogue, and how."""
        return self.model_dump(
            mode="json", exclude={"root": True, "allow_faults": True, "sources": {"__all__": {"allow_faults"}}}
        )

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self, root: Path) -> Path | None:
        """Folder of the layout, at or below the root, if there."""
        return next((folder for folder in (root / self.kind, root) if self.is_at(folder)), None)

    def is_at(self, folder: Path) -> bool:
        """Whether a folder holds the layout."""
        raise NotImplementedError

    def each_frame(self, folder: Path) -> Listing:
        """All frames in a fixed order, complete or broken, without opening images and scans.

        Args:
            folder: the layout's folder.
        """
        raise NotImplementedError

    def list_frames(self, root: Path) -> list[Frame | Rejected]:
        """The frames that the options name, complete or broken, without opening images and scans.

        Raises:
            SimipuError: the root does not hold the layout, or no frame.
        """
        folder = self.find(root)
        found = list(islice(self.each_frame(folder), 0, None, self.every)) if folder else []
        if not found:
            instead = "" if folder else self._instead(root)
            raise SimipuError(
                f"{root}: holds no {self.kind} frames (looked for {self.expected}{instead}); "
                "set `root` of pretrain_data or depth_data to the folder that holds them."
            )
        return found

    def _instead(self, root: Path) -> str:
        """What is there in place of the layout's folders, in words: an archive, other capitals, a folder in between."""
        parts = {part.casefold(): part for part in re.split("[/ ]", self.expected)}
        here = (path for folder in (root, root / self.kind) if folder.is_dir() for path in folder.iterdir())
        for path in sorted(here):
            if path.suffix.lower() in ARCHIVES and path.is_file():
                return f"; {path.name} must be unpacked first"
            proper = parts.get(path.name.casefold(), path.name)
            if proper != path.name:
                return f"; {path.name} must be called {proper}"
            if path.is_dir() and self.find(path):
                return f"; they lie in {path.name}"
        return ""

    def assign(self, found: Found) -> list[Split | None]:
        """Say for each frame whether it trains or evaluates; None where the split leaves it out.

        Broken frames keep their place in their sequence, so mending one moves no other frame.

        Raises:
            SimipuError: the split needs more than the source has.
        """
        if self.split == "within_sequence":
            return splits.within_sequence(found, self.train_share)
        if self.split == "by_sequence":
            return splits.by_sequence(found, self.train_share)
        return ["train"] * len(found)

    def split_frames(self, root: Path) -> list[tuple[Frame | Rejected, Split | None]]:
        """The frames of `list_frames`, each with what `assign` says."""
        found = self.list_frames(root)
        return list(zip(found, self.assign(found), strict=True))

    # -- reading -----------------------------------------------------------------------------------------------------

    @classmethod
    def read_file(cls, file: Path) -> bytes:
        """An image or depth map, as stored.

        Args:
            file: a file, or a reference to a record of one that `each_frame` made.

        Raises:
            BrokenFrameError: it cannot be read.
        """
        return read_file(file)

    @classmethod
    def read_scan(cls, file: Path) -> Scan:
        """The points of a scan.

        Raises:
            BrokenFrameError: it cannot be read or holds no sound points.
        """
        return make_scan(file, cls.read_file(file), parse_points)

    @classmethod
    def read_depth(cls, file: Path) -> bytes:
        """A depth map as a PNG of one channel with 16 bits, metres = value / the frame's `depth_scale`.

        Raises:
            BrokenFrameError: it cannot be read.
        """
        return cls.read_file(file)

    @classmethod
    def container(cls, file: Path) -> Path | None:
        """The file that a record lies in, if its records are read fastest in order; None for a file of its own."""
        return None

    # -- what is known beforehand ------------------------------------------------------------------------------------

    def official(self, found: Found, root: Path) -> list[Official]:
        """Published numbers, and how many of them were found in a root; none: the frames are only counted."""
        return []

    def published(self) -> tuple[int, int] | None:
        """Training and evaluation frames of the published set; None where the options make another one."""
        return None

    def thinned(self, count: int) -> int:
        """How many of so many frames `every` leaves."""
        return -(-count // self.every)

    def rendered(self, world: SyntheticConfig) -> list[str]:
        """Sequence of each frame that `simipu synthesize` writes in this layout."""
        return []

    def typical_rendered(self, world: SyntheticConfig) -> Typical:
        """Size of these frames: bytes a pixel and points a ray, as measured on a few."""
        pixels, points = world.image_size[0] * world.image_size[1], round(0.13 * world.lidar_points)
        return Typical(
            world.image_size, round(1.8 * pixels), round(0.45 * pixels), 16 * points, pixels // 3, 4 * points
        )

    @classmethod
    def benchmark(cls) -> Benchmark | None:
        """The published test set among its sequences."""
        return None

    @classmethod
    def origins(cls, root: Path) -> Origins | None:
        """What can be known in a root of the sequences of frames whose ids do not tell them.

        Raises:
            SimipuError: files that should tell them contradict each other.
        """
        return None


def make_scan(file: Path, data: bytes, parse: Callable[[bytes], NDArray[np.float32]]) -> Scan:
    """The points of a scan file.

    Args:
        file: where it lies, for the message.
        data: its content.
        parse: gives (N, 4) x, y, z in metres and reflectance 0–1; raises a SimipuError with the reason.

    Raises:
        BrokenFrameError: it holds no sound points.
    """
    try:
        points, dropped = measured(parse(data))
    except SimipuError as error:
        raise BrokenFrameError(file, str(error)) from None
    low, high = points[:, 3].min(), points[:, 3].max()
    if low < 0 or high > 1:
        raise BrokenFrameError(file, f"has reflectances from {low:g} to {high:g}, not within 0 and 1")
    return Scan(points, hashlib.sha256(data).hexdigest(), dropped)
