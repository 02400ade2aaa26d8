"""Pair: turn a catalogue into self-contained shards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simipu_core import storage
from simipu_core.artifacts import Manifest, check_new, local_artifact, read_manifest, sha256_text, write_artifact
from simipu_core.config import PairConfig
from simipu_core.data.catalogue import RAW_DATA_GONE, SYNTHETIC_FILE, check_broken_share, read_frames, write_rejected
from simipu_core.data.frames import Rejected
from simipu_core.data.pairing import Packed, pack_depth, pack_pair, too_much_to_pack
from simipu_core.data.reading_order import pack_frames
from simipu_core.data.schema import DEPTH, PAIRS, CatalogueRow
from simipu_core.data.shards import ShardWriter
from simipu_core.errors import SimipuError
from simipu_core.tracking.run import Run, SilentRun

Target = Literal["pairs", "depth"]

_SPLITS: dict[Target, dict[str, str]] = {"pairs": {"train": "pairs"}, "depth": {"train": "train", "eval": "eval"}}
"""Splits that a target packs, and the beginning of their shards' names."""


def pair(catalogue: Path, config: PairConfig, target: Target, out: Path, *, run: Run = SilentRun()) -> Manifest:
    """Pack the frames of a catalogue.

    `pairs` takes the training frames that have a scan; what the split keeps for evaluation is not pre-trained on.
    `depth` takes the frames with ground truth, or with a scan, as `config.depth_from` says, into train and eval
    shards. Training rows are written source by source, in an order shuffled by the hash of their sample_id, so that a
    row group mixes the sequences of one source; evaluation rows in natural order of sample_id.

    Args:
        catalogue: artifact of `ingest`; its raw files are read again and must not have changed.
        config: packing.
        target: kind of the artifact to make.
        out: artifact directory to make.
        run: where counts and statistics are recorded.

    Raises:
        SimipuError: no usable frame, more unusable ones than `config.max_broken_share` allows, or raw files missing.
    """
    check_new(out)
    catalogue = local_artifact(catalogue)
    source = read_manifest(catalogue, "catalogue")
    if source.origin is None:
        raise SimipuError(f"{catalogue}: does not say where its raw data lies; run ingest again.")
    root = storage.resolve(source.origin, mend=RAW_DATA_GONE)
    frames = _select(read_frames(catalogue), config, target, catalogue)
    pack: Callable[[CatalogueRow], Packed | Rejected]
    if target == "pairs":
        pack = partial(pack_pair, root, config)
    else:
        official = "rendered" if (root / SYNTHETIC_FILE).is_file() else "official"
        pack = partial(pack_depth, root, config, official)

    with write_artifact(
        out,
        target,
        inputs={"catalogue": source.digest},
        parameters={"pair": config.model_dump(mode="json"), "target": target},
        licence=source.licence,
        mlflow_run_id=run.run_id,
    ) as draft:
        statistics = _Statistics()
        schema = PAIRS if target == "pairs" else DEPTH
        rejected = partial(too_much_to_pack, root)
        work = pack_frames(pack, frames, schema, draft.path / ".unsorted", f"pair {target}", rejected)
        with closing(work) as results:
            _write(results, config, target, schema, draft.path, statistics)
        check_broken_share(statistics.broken, len(frames), config.max_broken_share, "pair.max_broken_share", root)
        write_rejected(statistics.broken, draft.path, root)
        if any(statistics.rows[split] == 0 for split in _SPLITS[target]):
            raise SimipuError(f"{catalogue}: no {target} frame of a split could be packed; mend the data or settings.")
        draft.counts.update(statistics.counts(target))
    manifest = read_manifest(out, target)
    run.log_input("catalogue", source.digest, "packing", made_by=source.mlflow_run_id)
    run.log_metrics(manifest.counts)
    return manifest


class _Statistics:
    def __init__(self) -> None:
        self.broken: list[Rejected] = []
        self.rows: dict[str, int] = {"train": 0, "eval": 0}
        self.num_points = 0
        self.num_codes = 0
        self.shares: list[tuple[float, float]] = []
        self.histograms: dict[float, NDArray[np.int64]] = {}

    def add(self, packed: Packed) -> None:
        self.rows[packed.split] += 1
        self.num_points += packed.num_points
        self.num_codes += packed.num_codes
        self.shares.append((packed.share_in_image, packed.share_occluded))
        if packed.histogram is not None and "depth_scale" in packed.row:
            scale = packed.row["depth_scale"]
            self.histograms[scale] = self.histograms.get(scale, 0) + packed.histogram

    def counts(self, target: Target) -> dict[str, float]:
        frames = sum(self.rows.values())
        counts: dict[str, float] = {"frames": frames, "broken": len(self.broken)}
        if target == "depth":
            median = median_depth(self.histograms)
            pixels = {"mean_depth_pixels": self.num_points / frames, "mean_code_pixels": self.num_codes / frames}
            return {**counts, **self.rows, **pixels, "median_depth_train": median}
        in_image, occluded = np.array(self.shares).T
        return {
            **counts,
            "mean_points_in_image": self.num_points / frames,
            "mean_share_in_image": float(in_image.mean()),
            "min_share_in_image": float(in_image.min()),
            "max_share_in_image": float(in_image.max()),
            "mean_share_occluded": float(occluded.mean()),
        }


def median_depth(histograms: dict[float, NDArray[np.int64]]) -> float:
    """Median of all measured depths, metres.

    Args:
        histograms: by scale (metres = value / scale), the number of pixels of each 16-bit value; value 0 is no
            measurement.
    """
    depths = np.concatenate([np.arange(1, 1 << 16) / scale for scale in histograms])
    pixels = np.concatenate([histogram[1:] for histogram in histograms.values()])
    order = np.argsort(depths, kind="stable")
    ends = np.cumsum(pixels[order])
    middle = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
    return float(depths[order][middle].mean())


def _write(
    results: Iterator[Packed | Rejected],
    config: PairConfig,
    target: Target,
    schema: pa.Schema,
    folder: Path,
    statistics: _Statistics,
) -> None:
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(
                    folder,
                    prefix,
                    schema,
                    rows_per_group=config.rows_per_group,
                    shard_mb=config.shard_mb,
                    compress=config.image_encoding == "raw",
                )
            )
            for split, prefix in _SPLITS[target].items()
        }
        for result in results:
            if isinstance(result, Rejected):
                statistics.broken.append(result)
            else:
                statistics.add(result)
                writers[result.split].write(result.row)


def _select(frames: list[CatalogueRow], config: PairConfig, target: Target, catalogue: Path) -> list[CatalogueRow]:
    """Frames that have what the target needs, in the order in which their rows are written."""
    needed: Literal["depth", "points"] = "depth" if target == "depth" and config.depth_from == "official" else "points"
    splits = _SPLITS[target]
    usable = [frame for frame in frames if frame[needed] is not None and frame["split"] in splits]
    if not usable:
        what, mend = (
            ("official ground truth", "set pair.depth_from to projected_lidar or use another source")
            if needed == "depth"
            else ("a LiDAR scan", "use a source with scans")
        )
        raise SimipuError(f"{catalogue}: no frame has {what}; {mend}.")
    for split in splits:
        if not any(frame["split"] == split for frame in usable):
            raise SimipuError(f"{catalogue}: the split leaves no {split} frame to pack; choose another `split`.")
    training = [frame for frame in usable if frame["split"] == "train"]
    training.sort(key=lambda frame: (frame["source"], sha256_text(frame["sample_id"])))
    return training + [frame for frame in usable if frame["split"] == "eval"]
