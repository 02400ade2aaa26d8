"""How many frames an experiment has, of which size, and what their shards take: read, or known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simipu_core.artifacts import Manifest, local_artifact, read_manifest
from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.config.section import Size
from simipu_core.data.catalogue import read_frames
from simipu_core.data.frames import Rejected
from simipu_core.data.shards import Shards
from simipu_core.data.sources import Source, class_of
from simipu_core.data.sources.base import Typical
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

Use = Literal["pairs", "depth"]

_SYNTHETIC_ROOT = Path("data/raw")
_RAW_IMAGE, _RAW_DEPTH = 2.9, 0.5
"""Bytes a pixel of raw images and sparse depth maps after LZ4."""


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

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a frame in the shards."""
        return self.shard_bytes / (self.train + self.evaluated)


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
        typicals, origin = [part.typical_rendered(experiment.synthetic) for part in source.parts], "synthetic"
    else:
        counts = [part.published() for part in source.parts]
        typicals, origin = [part.typical for part in source.parts], "official"
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


def _weighted(typicals: Sequence[Typical], counts: Sequence[tuple[int, int]], side: int) -> int:
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
    typical = class_of(train[0]["source"]).typical
    scale = size[0] * size[1] / (typical.size[0] * typical.size[1])
    bytes_ = round((len(train) + evaluated) * scale * _row_bytes(typical, experiment.pair, use))
    return Frames(len(train), evaluated, size, bytes_, f"catalogue in {folder}, typical file sizes")


def _synthetic(source: Source, world: SyntheticConfig) -> tuple[int, int] | None:
    """Training and evaluation frames of what `simipu synthesize` renders."""
    kept = source.rendered(world)[:: source.every]
    if not kept:
        return None
    assigned = source.assign([Rejected("", sequence, Path(), "") for sequence in kept])
    return assigned.count("train"), assigned.count("eval")


def _row_bytes(typical: Typical, config: PairConfig, use: Use) -> int:
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
