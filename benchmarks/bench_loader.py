"""Samples a second and core from shards against reading KITTI's folder, both to the same tensors.

Images are 375×1242, from the synthetic world, whose PNG files are as large as KITTI's. Fine-tuning reads image and
ground truth; pre-training reads image, scan and calibration, and its neighbourhoods, which `bench_geometry` measures,
are left out of `pairs` and part of `pairs_with_geometry`; what is left of a pre-training sample is mostly the resizing
and joining of images, which both sides do alike. Files and shards lie in the page cache; every row is read from its
shard once a round.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.measure import seconds, single_thread, store
from benchmarks.recipes import Folder, depth_sample, padded, pair_sample
from benchmarks.world import depth_files, pack, render
from simipu_core.config import DepthAugmentConfig, PairConfig, PretrainConfig
from simipu_core.data import views
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.shards import Shards

BATCH = 8


def epoch(path: Path, kind: Literal["pairs", "depth"], make: Callable[[Sequence[Any], Sequence[Any]], Any]) -> None:
    """Load all whole batches once, with nothing left in memory from the round before."""
    shards = Shards(path, kind, "train" if kind == "depth" else None)
    order = SampleOrder(shards.group_sizes, BATCH, 0)
    for _ in batches(shards, order, make, steps=range(order.steps_per_epoch), workers=0):
        pass


def bare_epoch(path: Path, config: PretrainConfig) -> None:
    """The same without farthest point sampling and neighbourhoods."""
    first = np.arange(config.point_encoder.levels[0].num_points)
    levels = [(first[: level.num_points], []) for level in config.point_encoder.levels]
    with (
        patch.object(views, "_first_picks", lambda *_: first),
        patch.object(views, "neighbourhoods", lambda *_: levels),
    ):
        epoch(path, "pairs", views.PairViews(config))


def depth_epoch(folder: Folder, config: DepthAugmentConfig) -> None:
    """The same from files."""
    rng = np.random.default_rng(0)
    for begin in range(0, len(folder.images), BATCH):
        samples = [depth_sample(folder, begin + i, config, rng) for i in range(BATCH)]
        torch.stack([image for image, _ in samples]), torch.stack([depth for _, depth in samples])


def pair_epoch(folder: Folder, config: PretrainConfig) -> None:
    """The same from files."""
    rng = np.random.default_rng(0)
    for begin in range(0, len(folder.images), BATCH):
        samples = [pair_sample(folder, begin + i, config, rng) for i in range(BATCH)]
        padded([sample.image for sample in samples], config.image.pad_multiple)
        for name in ("points", "augmented", "pixels"):
            torch.stack([getattr(sample, name) for sample in samples])


def main(num_frames: int = 16, rounds: int = 5) -> None:
    """Measure, print and store."""
    single_thread()
    augment, whole = DepthAugmentConfig(), PretrainConfig()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        objects = render(root / "raw", num_frames)
        drives = depth_files(root / "raw", num_frames)
        tasks: dict[str, Callable[[], None]] = {
            "depth_from_folder": lambda: depth_epoch(drives, augment),
            "pairs_from_folder": lambda: pair_epoch(objects, whole),
        }
        for encoding in ("source", "jpeg", "raw"):
            pairs, depth = pack(root / "raw", root / encoding, PairConfig(image_encoding=encoding))
            tasks |= {
                f"depth_{encoding}": lambda depth=depth: epoch(depth, "depth", DepthViews(augment, 1.0)),  # type: ignore[misc]
                f"pairs_{encoding}": lambda pairs=pairs: bare_epoch(pairs, whole),  # type: ignore[misc]
                f"pairs_with_geometry_{encoding}": lambda pairs=pairs: epoch(pairs, "pairs", views.PairViews(whole)),  # type: ignore[misc]
            }
        spent = seconds(tasks, rounds)
    store(
        "loader",
        {
            "image_size": [375, 1242],
            "crop": list(augment.crop or ()),
            "samples_per_second_and_core": {name: num_frames / value for name, value in spent.items()},
            "shards_over_folder": {
                name: spent[f"{name.split('_')[0]}_from_folder"] / spent[name]
                for name in spent
                if not name.endswith("_folder") and "geometry" not in name
            },
            "goal": 3,
        },
    )


if __name__ == "__main__":
    main()
