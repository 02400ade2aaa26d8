"""How many frames an experiment has, of which size, and what their shards take: read, or known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from simipu_core.artifacts import Manifest, local_artifact, read_manifest
from simipu_core.config import PairConfig, SourceConfig, SyntheticConfig
from simipu_core.config.section import Size
from simipu_core.data import splits
from simipu_core.data.catalogue import read_frames
from simipu_core.data.shards import Shards
from simipu_core.data.sources import Rejected
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

Use = Literal["pairs", "depth"]

_SYNTHETIC_ROOT = Path("data/raw")
_OBJECT_FRAMES = {"training": 7_481, "train_half": 3_712, "train_half_and_testing": 11_230}
_WAYMO_TRAINING_FRAMES = 158_081
_NUSCENES_KEYFRAMES = 34_149
_VIEWS_PER_ROOM = 4


@dataclass(frozen=True)
class Frames:
    """The frames of one use."""

    train: int
    evaluated: int
    size: Size
    """Height and width, pixels; the mean where they differ."""
    shard_bytes: int
    origin: str
    """Where these numbers come from, in words."""


class _Typical(NamedTuple):
    """Mean bytes of a frame's parts."""

    size: Size
    image: int
    jpeg: int
    points: int
    depth: int
    projected: int


_KITTI = _Typical((375, 1242), 800_000, 190_000, 275_000, 170_000, 70_000)
_NYU = _Typical((480, 640), 49_000, 90_000, 0, 174_000, 0)
_WAYMO = _Typical((1280, 1920), 490_000, 490_000, 380_000, 0, 100_000)
_RAW_IMAGE, _RAW_DEPTH = 2.9, 0.5  # bytes a pixel of raw images and sparse depth maps after LZ4
_NUSCENES = _Typical((900, 1600), 170_000, 330_000, 50_000, 0, 14_000)
_TYPICAL = {"nyu": _NYU, "nyu_labelled": _NYU, "waymo": _WAYMO, "waymo_kitti": _WAYMO, "nuscenes": _NUSCENES}


def frames(experiment: Experiment, use: Use, folder: Path | None) -> Frames:
    """The frames for pre-training (`pairs`) or for fine-tuning and evaluation (`depth`).

    Args:
        experiment: its source, packing and synthetic world are read.
        use: which source.
        folder: shards or a catalogue; None takes the official counts, or those of the synthetic world.

    Raises:
        SimipuError: the folder holds something else; or there is none, and nobody knows the count beforehand.
    """
    if folder is not None:
        return _found(folder, use, experiment)
    source = experiment.pretrain_data if use == "pairs" else experiment.depth_data
    if Path(source.root) == _SYNTHETIC_ROOT:
        counts = [_synthetic(part, experiment.synthetic) for part in source.parts]
        typicals, origin = [_rendered(part, experiment) for part in source.parts], "synthetic"
    else:
        counts = [_official(part) for part in source.parts]
        typicals, origin = [_TYPICAL.get(part.kind, _KITTI) for part in source.parts], "official"
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        unknown = source.parts[counts.index(None)]
        section = "pretrain_data" if use == "pairs" else "depth_data"
        raise SimipuError(
            f"{section}: no count is known beforehand for kind {unknown.kind} with split {unknown.split}; give the "
            f"shards or the catalogue with --{use} FOLDER."
        )
    used = [train + (evaluated if use == "depth" else 0) for train, evaluated in known]
    shard_bytes = sum(
        count * _row_bytes(typical, experiment.pair, use) for count, typical in zip(used, typicals, strict=True)
    )
    train = sum(train for train, _ in known)
    size = (_weighted(typicals, known, 0), _weighted(typicals, known, 1))
    kinds = ", ".join(part.kind for part in source.parts)
    return Frames(train, sum(used) - train, size, shard_bytes, f"{origin} count of {kinds}, typical file sizes")


def _weighted(typicals: Sequence[_Typical], counts: Sequence[tuple[int, int]], side: int) -> int:
    """Mean height or width of the training frames, pixels."""
    total = sum(train for train, _ in counts)
    return round(sum(t.size[side] * train for t, (train, _) in zip(typicals, counts, strict=True)) / total)


def _found(folder: Path, use: Use, experiment: Experiment) -> Frames:
    folder = local_artifact(folder)
    manifest = read_manifest(folder, use, "catalogue")
    return _catalogued(folder, use, experiment) if manifest.kind == "catalogue" else _packed(folder, use, manifest)


def _packed(folder: Path, use: Use, manifest: Manifest) -> Frames:
    train = Shards(folder, "pairs") if use == "pairs" else Shards(folder, "depth", "train")
    evaluated = 0 if use == "pairs" else len(Shards(folder, "depth", "eval"))
    size = (_mean(train.column("height")), _mean(train.column("width")))
    total = sum(entry.bytes for entry in manifest.files.values())
    return Frames(len(train), evaluated, size, total, f"shards in {folder}")


def _catalogued(folder: Path, use: Use, experiment: Experiment) -> Frames:
    is_official = use == "depth" and experiment.pair.depth_from == "official"
    rows = [row for row in read_frames(folder) if row["depth" if is_official else "points"] is not None]
    train = [row for row in rows if row["split"] == "train"]
    if not train:
        raise SimipuError(f"{folder}: its catalogue has no training frame for {use}; give that of the other source.")
    evaluated = len(rows) - len(train) if use == "depth" else 0
    size = (_mean([row["height"] for row in train]), _mean([row["width"] for row in train]))
    typical = _TYPICAL.get(train[0]["source"], _KITTI)
    scale = size[0] * size[1] / (typical.size[0] * typical.size[1])
    bytes_ = round((len(train) + evaluated) * scale * _row_bytes(typical, experiment.pair, use))
    return Frames(len(train), evaluated, size, bytes_, f"catalogue in {folder}, typical file sizes")


def _official(source: SourceConfig) -> tuple[int, int] | None:
    """Training and evaluation frames of a published set; None where its settings make another one."""
    counts = splits.PUBLISHED_COUNTS
    if source.split == "none" and source.kind == "kitti_object":
        return -(-_OBJECT_FRAMES[source.frames] // source.every), 0
    if source.split == "none" and source.kind in ("waymo", "waymo_kitti"):
        return -(-_WAYMO_TRAINING_FRAMES // source.every), 0
    if source.split == "none" and source.kind == "nuscenes":
        return -(-_NUSCENES_KEYFRAMES // source.every), 0
    if source.split == "eigen" and source.kind == "kitti_depth" and source.every == 1:
        return counts["kitti_eigen_train"], counts["kitti_eigen_test"]
    if source.split == "folders" and source.kind == "nyu" and source.every == 1:
        return counts["nyu_train"], counts["nyu_test"]
    if source.split == "nyu_official" and source.every == 1:
        return counts["nyu_labelled_train"], counts["nyu_test"]
    return None


def _synthetic(source: SourceConfig, world: SyntheticConfig) -> tuple[int, int] | None:
    """Training and evaluation frames of what `simipu synthesize` renders."""
    objects = ["objects"] * world.object_frames
    drives = [f"{drive:04d}" for drive in range(world.drives) for _ in range(world.frames_per_drive)]
    tests = [f"{'test/' if room % 3 == 2 else ''}{room:04d}" for room in range(world.rooms)]
    sequences: dict[str, list[str]] = {
        "kitti": drives if source.drives_only and drives else objects + drives,
        "kitti_object": objects if source.frames == "training" else [],
        "kitti_raw": drives,
        "kitti_depth": drives,
        "nyu": [room for room in tests for _ in range(_VIEWS_PER_ROOM)],
        "waymo": [f"{segment:04d}" for segment in range(world.waymo_segments) for _ in range(world.waymo_frames)],
        "nuscenes": [f"{scene:04d}" for scene in range(world.nuscenes_scenes) for _ in range(world.nuscenes_frames)],
        "logs": [f"{log:04d}" for log in range(world.logs) for _ in range(world.frames_per_drive)],
        "nyu_labelled": [f"{image // _VIEWS_PER_ROOM:04d}" for image in range(world.labelled_images)],
    }
    kept = sequences.get(source.kind, [])[:: source.every]
    if not kept or source.split in ("eigen", "nyu_official"):
        return None
    assigned = splits.assign([Rejected("", sequence, Path(), "") for sequence in kept], source)
    return assigned.count("train"), assigned.count("eval")


def _rendered(source: SourceConfig, experiment: Experiment) -> _Typical:
    """Rendered frames: bytes a pixel and points a ray, as measured on a few."""
    if source.kind in ("nyu", "nyu_labelled"):
        return _Typical(_NYU.size, 87_000, 87_000, 0, 175_000, 0)
    world = experiment.synthetic
    pixels = world.image_size[0] * world.image_size[1]
    points = round(0.13 * world.lidar_points)
    image = 1.8 if source.kind not in ("waymo", "nuscenes") else 0.45
    return _Typical(world.image_size, round(image * pixels), round(0.45 * pixels), 16 * points, pixels // 3, 4 * points)


def _row_bytes(typical: _Typical, config: PairConfig, use: Use) -> int:
    pixels = typical.size[0] * typical.size[1]
    if config.image_encoding == "raw":
        image, depth = round(_RAW_IMAGE * pixels), round(_RAW_DEPTH * pixels)
        return image + (typical.points if use == "pairs" else depth)
    image = typical.jpeg if config.image_encoding == "jpeg" else typical.image
    if use == "pairs":
        return image + typical.points
    return image + (typical.depth if config.depth_from == "official" else typical.projected)


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))
