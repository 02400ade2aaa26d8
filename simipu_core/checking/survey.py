"""Opens the frames of a source, all or some, once and measures what the checks need."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from simipu_core.checking.alignment import Alignment, Camera, align
from simipu_core.checking.report import Severity, by_share
from simipu_core.config import PairConfig
from simipu_core.config.section import SizeRange
from simipu_core.data.catalogue import Content, read_content
from simipu_core.data.formats.scans import NONE_DROPPED, Dropped
from simipu_core.data.frames import Frame, Rejected, too_much
from simipu_core.data.images import bits_used, decode_depth, decode_image, orientation
from simipu_core.data.lenses import through_pinhole
from simipu_core.data.pairing import depth_map
from simipu_core.data.schema import FrameRow
from simipu_core.data.sources import Source
from simipu_core.geometry.cameras import in_image, project
from simipu_core.geometry.visibility import cell_size, visible
from simipu_core.parallel import map_frames

THUMBNAIL = (16, 32)
"""Rows and columns of the small grey picture by which frames are compared."""
_ALIGNED_FRAMES = 400
"""Frames whose calibration is tried, over all sequences."""
_ALIGNED_A_SEQUENCE = (4, 48)
_OTHER_CAMERAS = 4
_SAMPLED, _SAMPLE = 1 / 20, (12, 48)
"""Share of the frames that are measured where not all are, and the least and largest number of them."""
_SURELY = 0.01
"""So improbable is a fault of a sample where no more than the allowed share of all frames is wrong."""
_LEFT_TO_PAIR = PairConfig(min_points=1, max_sync_ms=1e9, max_broken_share=1)
"""Limits that no frame exceeds: pair has its own, which ingest does not know."""
_AGREE = 0.1
"""Largest relative difference of a depth map from the scan's depth for the two to agree."""


@dataclass(frozen=True, slots=True)
class DepthFacts:
    """A depth map, measured."""

    valid_share: float
    median: float
    """Metres, as is `largest`, the 99th percentile."""
    largest: float
    num_common: int = 0
    """Pixels with a projected LiDAR point too; the two fields below are of these."""
    ratio: float = 1.0
    """Median of depth / LiDAR depth."""
    agreement: float = 1.0
    """Share where they differ by less than a tenth."""
    capped: float = 0.0
    """Share of the measured pixels that hold the very largest depth: a code, or a cap."""
    copied: float = 0.0
    """Share of the map's pixels that hold just what projecting this one scan gives."""


@dataclass(frozen=True, slots=True)
class SoundFrame:
    """A frame that can be read."""

    row: FrameRow
    split: str

    @property
    def sample_id(self) -> str:
        """Of the frame."""
        return str(self.row["sample_id"])

    @property
    def sequence(self) -> str:
        """Of the frame."""
        return str(self.row["sequence"])


@dataclass(frozen=True, slots=True)
class FrameFacts(SoundFrame):
    """A sound frame, measured."""

    thumbnail: bytes
    contrast: float
    """Standard deviation of the grey values."""
    is_grey: bool
    is_misnamed: bool
    """The suffix names another image format than the content has."""
    outside: bool
    """A file is a link that leads out of the root."""
    bits: int = 8
    """Of the image's channels, see `images.bits_used`."""
    orientation: int = 1
    """By EXIF's number, how viewers turn the image."""
    num_in_image: int = 0
    """Points in the image and in the depth range."""
    share_in_image: float = 0.0
    share_ahead: float = 0.0
    """Points in front of the camera."""
    reflectance: float | None = None
    """Of the brightest thousandth of the points."""
    farthest: float | None = None
    """Distance of the farthest hundredth of the points, metres."""
    dropped: Dropped = NONE_DROPPED
    """Points of the scan that are no measurements."""
    depth: DepthFacts | None = None
    alignment: Alignment | None = None


FrameT = TypeVar("FrameT", bound=SoundFrame)


@dataclass(frozen=True)
class Survey:
    """A source, measured."""

    source: Source
    pair: PairConfig
    root: Path
    is_synthetic: bool
    listed: Sequence[tuple[Frame | Rejected, str]]
    """Frames that the split keeps, with their split."""
    sound: Sequence[SoundFrame]
    """Those that can be read, in the same order."""
    facts: list[FrameFacts]
    """Of the measured ones: of all sound ones, or of a sample, in the same order."""
    broken: list[Rejected]
    is_sample: bool = False

    @property
    def total(self) -> int:
        """Sound and broken frames."""
        return len(self.listed)

    def by_share(self, count: int, measured: int, allowed: float) -> Severity:
        """The same as :func:`report.by_share` of measured frames; of a sample, where it is surely so of all frames."""
        severity = by_share(count, measured, allowed)
        if severity is Severity.WARNING or len(self.facts) == len(self.sound):
            return severity
        from scipy.stats import binom

        return severity if binom.sf(count - 1, measured, allowed) < _SURELY else Severity.WARNING


def streams(frames: Iterable[FrameT]) -> list[list[FrameT]]:
    """Frames of one camera in one sequence, in order: those whose ids differ in their last part only."""
    found: dict[tuple[str, str], list[FrameT]] = defaultdict(list)
    for frame in frames:
        found[frame.sequence, frame.sample_id.rpartition("/")[0]].append(frame)
    return list(found.values())


def survey(source: Source, pair: PairConfig, root: Path, is_synthetic: bool) -> Survey:
    """Measure every frame of a source, in parallel.

    Args:
        source: the data set and its options.
        pair: depth range within which points count.
        root: folder of the raw data.
        is_synthetic: made by `simipu synthesize`.

    Raises:
        SimipuError: the root does not hold the layout, or the split does not suit it.
    """
    kept: list[tuple[Frame | Rejected, str]] = [(frame, split) for frame, split in source.split_frames(root) if split]
    frames = [(frame, split) for frame, split in kept if isinstance(frame, Frame)]
    cameras = _frequent_cameras([frame for frame, _ in frames])
    tried = _spread([frame for frame, _ in frames])
    facts: list[FrameFacts] = []
    broken = [frame for frame, _ in kept if isinstance(frame, Rejected)]
    measure_one = partial(_measure, root, source.image_sizes, pair, tried, cameras)
    with closing(map_frames(measure_one, frames, "check", rejected=_too_much)) as results:
        for result in results:
            if isinstance(result, Rejected):
                broken.append(result)
            else:
                facts.append(result)
    return Survey(source, pair, root, is_synthetic, kept, facts, facts, broken)


def sample(
    source: Source,
    root: Path,
    is_synthetic: bool,
    listed: Sequence[tuple[Frame | Rejected, str]],
    rows: Iterable[FrameRow],
    broken: list[Rejected],
) -> Survey:
    """Measure a few dozen frames of a source of which every frame has been examined, spread evenly over it.

    What pairing refuses by its own limits is left to it.

    Args:
        source: the data set and its options.
        root: folder of the raw data.
        is_synthetic: made by `simipu synthesize`.
        listed: frames that the split keeps, with their split.
        rows: those of the sound ones.
        broken: the others.
    """
    split_of = {frame.sample_id: split for frame, split in listed}
    sound = [SoundFrame(row, split_of[row["sample_id"]]) for row in rows]
    chosen = _evenly_from_sources(sound, int(np.clip(len(sound) * _SAMPLED, *_SAMPLE)))
    candidates = [(frame, split) for frame, split in listed if isinstance(frame, Frame)]
    frames = [(frame, split) for frame, split in candidates if frame.sample_id in chosen]
    cameras = _frequent_cameras([frame for frame, _ in candidates])
    measure_one = partial(_measure, root, source.image_sizes, _LEFT_TO_PAIR, chosen, cameras)
    with closing(map_frames(measure_one, frames, "check", workers=2, rejected=_too_much)) as results:
        facts = [result for result in results if isinstance(result, FrameFacts)]
    return Survey(source, _LEFT_TO_PAIR, root, is_synthetic, listed, sound, facts, broken, is_sample=True)


def thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Small grey picture of an image (H, W, 3) RGB, as `THUMBNAIL` bytes."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return bytes(cv2.resize(grey, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA).tobytes())


def camera_of(frame: Frame) -> Camera | None:
    """Calibration of a frame with a scan."""
    return Camera(frame.intrinsics, frame.lidar_to_camera) if frame.lidar_to_camera else None


def _measure(
    root: Path,
    sizes: SizeRange,
    pair: PairConfig,
    tried: frozenset[str],
    cameras: Mapping[str, Camera],
    item: tuple[Frame, str],
) -> FrameFacts | Rejected:
    frame, split = item
    content = read_content(root, frame, sizes)
    if isinstance(content, Rejected):
        return content
    stored = decode_image(content.image)
    image = through_pinhole(stored, content.row)
    height, width = image.shape[:2]
    files = [file for file in (frame.image, frame.points, frame.depth) if file]
    is_png = content.image.startswith(b"\x89PNG")
    suffix = frame.image.suffix.lower()
    facts: dict[str, object] = {"bits": bits_used(content.image), "orientation": orientation(content.image)}
    projected = None
    if content.scan and frame.lidar_to_camera:
        points = content.scan.points
        uv, depth = project(points[:, :3], frame.lidar_to_camera, frame.intrinsics)
        inside = in_image(uv, depth, height, width, pair.depth_range)
        facts |= {
            "num_in_image": int(inside.sum()),
            "share_in_image": float(inside.mean()),
            "share_ahead": float((depth > 0).mean()),
            "reflectance": float(np.quantile(points[:, 3], 0.999)),
            "farthest": float(np.quantile(np.linalg.norm(points[:, :3], axis=1), 0.99)),
            "dropped": content.scan.dropped,
        }
        if frame.depth:
            projected = _draw(uv[inside], depth[inside], frame, pair, (height, width))
        if frame.sample_id in tried:
            own = camera_of(frame)
            others = {name: camera for name, camera in cameras.items() if own and not _same(camera, own)}
            facts["alignment"] = align(image, points, own, others, stored if frame.lens else None) if own else None
    if content.depth is not None and frame.depth_scale:
        facts["depth"] = _depth_facts(content, frame.depth_scale, projected)
    return FrameFacts(
        row=content.row,
        split=split,
        thumbnail=thumbnail(image),
        contrast=float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).std()),
        is_grey=bool((np.ptp(image[::4, ::4], axis=2) == 0).all()),
        is_misnamed=suffix in (".png", ".jpg", ".jpeg") and is_png != (suffix == ".png"),
        outside=any(_leads_out(file, root) for file in files),
        **facts,  # type: ignore[arg-type]
    )


def _too_much(item: tuple[Frame, str], reason: str) -> Rejected:
    return too_much(item[0], reason)


def _draw(
    uv: NDArray[np.float64], depth: NDArray[np.float64], frame: Frame, pair: PairConfig, size: tuple[int, int]
) -> NDArray[np.float64]:
    seen = visible(uv, depth, *size, pair.occlusion_margin, cell_size(frame.intrinsics))
    return depth_map(uv[seen], depth[seen], *size)


def _depth_facts(content: Content, scale: float, projected: NDArray[np.float64] | None) -> DepthFacts:
    assert content.depth is not None  # noqa: S101 (the caller's condition)
    metres = decode_depth(content.depth, scale)
    known = metres > 0
    values = metres[known]
    facts = (float(known.mean()), float(np.median(values)), float(np.quantile(values, 0.99)))
    capped = float((values == values.max()).mean())
    common = known & (projected > 0) if projected is not None else np.zeros_like(known)
    if projected is None or not common.any():
        return DepthFacts(*facts, capped=capped)
    ratio = metres[common] / projected[common]
    copied = np.abs(metres[common] - projected[common]) <= 1.5 / scale
    return DepthFacts(
        *facts,
        capped=capped,
        num_common=int(common.sum()),
        ratio=float(np.median(ratio)),
        agreement=float((np.abs(ratio - 1) < _AGREE).mean()),
        copied=float(copied.sum() / known.sum()),
    )


def _leads_out(file: Path, root: Path) -> bool:
    path = file.with_name(file.name.partition("#")[0])
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _spread(frames: Sequence[Frame]) -> frozenset[str]:
    """Ids of frames, evenly from each sequence, whose calibration is tried."""
    sequences: dict[str, list[str]] = defaultdict(list)
    for frame in frames:
        if frame.lidar_to_camera:
            sequences[frame.sequence].append(frame.sample_id)
    fewest, most = _ALIGNED_A_SEQUENCE
    each = min(max(_ALIGNED_FRAMES // max(len(sequences), 1), fewest), most)
    return frozenset(name for names in sequences.values() for name in evenly(names, each))


def evenly(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, spread evenly."""
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in dict.fromkeys(picked.tolist())]


def _evenly_from_sources(frames: Sequence[SoundFrame], count: int) -> frozenset[str]:
    """Ids of about so many frames, evenly from each source."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for frame in frames:
        names_of[frame.row["source"]].append(frame.sample_id)
    each = -(-count // max(len(names_of), 1))
    return frozenset(name for names in names_of.values() for name in evenly(names, each))


def _frequent_cameras(frames: Sequence[Frame]) -> dict[str, Camera]:
    """The most frequent calibrations, by the first frame that has each."""
    first: dict[tuple[float, ...], Frame] = {}
    counts: Counter[tuple[float, ...]] = Counter()
    for frame in frames:
        if camera := camera_of(frame):
            key = _rounded(camera)
            first.setdefault(key, frame)
            counts[key] += 1
    chosen = [first[key] for key, _ in counts.most_common(_OTHER_CAMERAS)] if len(counts) > 1 else []
    return {
        f"the calibration of {frame.sequence if frame.sequence != frame.source else frame.sample_id}": camera
        for frame in chosen
        if (camera := camera_of(frame))
    }


def _rounded(camera: Camera) -> tuple[float, ...]:
    transform = np.reshape(np.asarray(camera.lidar_to_camera, np.float64), (4, 4))[:3]
    parts = (np.ravel(camera.intrinsics), 100 * transform[:, :3], 10 * transform[:, 3])
    return tuple(np.concatenate([np.round(np.ravel(part)) for part in parts]).tolist())


def _same(one: Camera, other: Camera) -> bool:
    return _rounded(one) == _rounded(other)
