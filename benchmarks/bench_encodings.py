"""What a shard's image and depth encoding costs: size, reading with decoding, whole fine-tuning batches.

Beside them stands the obvious reading of KITTI's folder, as in `bench_loader`.
Raw means PPM and PGM, bytes without compression of their own, in Parquet pages that are compressed. All but JPEG are
lossless; JPEG's loss is stated. Images are 375×1242; every row is read from its shard once a round.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_loader import depth_epoch, epoch
from benchmarks.measure import seconds, single_thread, store
from benchmarks.world import depth_files, pack, render
from simipu_core.artifacts import write_artifact
from simipu_core.config import DepthAugmentConfig, PairConfig
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.images import decode_depth, decode_image, depth_values, encode_jpeg, encode_raw
from simipu_core.data.schema import DEPTH
from simipu_core.data.shards import Shards


class Encoding(NamedTuple):
    """How a shard holds image and depth."""

    image: str
    depth: str
    image_pages: str = "none"
    depth_pages: str = "none"


ENCODINGS = {
    "png": Encoding("png", "png"),
    "jpeg95": Encoding("jpeg", "png"),
    "jpeg95_raw_depth_zstd": Encoding("jpeg", "raw", depth_pages="zstd"),
    "raw_lz4": Encoding("raw", "raw", "lz4", "lz4"),
    "raw_zstd": Encoding("raw", "raw", "zstd", "zstd"),
    "raw_uncompressed": Encoding("raw", "raw"),
}


def write(source: Shards, encoding: Encoding, out: Path) -> Path:
    """The rows of depth shards, encoded anew."""
    rows = [_encoded(source.row(index), encoding) for index in range(len(source))]
    with write_artifact(out, "depth", inputs={}, parameters={}, licence="generated") as draft:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=DEPTH),
            draft.path / "train-00000.parquet",
            compression={"image": encoding.image_pages, "depth": encoding.depth_pages},
            use_dictionary=["source", "sequence", "depth_origin"],
            row_group_size=16,
        )
    return out


def _encoded(row: dict[str, Any], encoding: Encoding) -> dict[str, Any]:
    changed = dict(row)
    if encoding.image == "jpeg":
        changed["image"] = encode_jpeg(decode_image(row["image"]))
    if encoding.image == "raw":
        changed["image"] = encode_raw(decode_image(row["image"]))
    if encoding.depth == "raw":
        changed["depth"] = encode_raw(depth_values(row["depth"]))
    return changed


def read(path: Path) -> list[tuple[Any, Any]]:
    """Read and decode every row."""
    shards = Shards(path, "depth", "train")
    rows = (shards.row(index) for index in range(len(shards)))
    return [(decode_image(row["image"]), decode_depth(row["depth"], row["depth_scale"])) for row in rows]


def main(num_frames: int = 16, rounds: int = 5) -> None:
    """Measure, print and store."""
    single_thread()
    augment = DepthAugmentConfig()
    views = DepthViews(augment, 1.0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        render(root / "raw", num_frames)
        _, depth = pack(root / "raw", root, PairConfig())
        source = Shards(depth, "depth", "train")
        paths = {name: write(source, encoding, root / name) for name, encoding in ENCODINGS.items()}
        frames = {name: read(path) for name, path in paths.items()}
        tasks: dict[str, Callable[[], object]] = {
            f"read_{name}": lambda path=path: read(path) for name, path in paths.items()
        }  # type: ignore[misc]
        tasks |= {f"batch_{name}": lambda path=path: epoch(path, "depth", views) for name, path in paths.items()}  # type: ignore[misc]
        files = depth_files(root / "raw", num_frames)
        tasks["folder"] = lambda: depth_epoch(files, augment)
        spent = seconds(tasks, rounds)
        sizes = {name: sum(file.stat().st_size for file in path.glob("*.parquet")) for name, path in paths.items()}
    store(
        "encodings",
        {
            "image_size": list(frames["png"][0][0].shape[:2]),
            "folder_whole_sample_ms": 1e3 * spent["folder"] / num_frames,
            "encodings": {
                name: {
                    "kilobytes": sizes[name] / num_frames / 1e3,
                    "read_and_decode_ms": 1e3 * spent[f"read_{name}"] / num_frames,
                    "whole_sample_ms": 1e3 * spent[f"batch_{name}"] / num_frames,
                    "speed_over_folder": spent["folder"] / spent[f"batch_{name}"],
                    "mean_grey_level_loss": _loss(frames[name], frames["png"]),
                }
                for name in ENCODINGS
            },
        },
    )


def _loss(frames: list[tuple[Any, Any]], exact: list[tuple[Any, Any]]) -> float:
    pairs = zip(frames, exact, strict=True)
    return float(np.mean([np.abs(ours[0].astype(float) - true[0]).mean() for ours, true in pairs]))


if __name__ == "__main__":
    main()
