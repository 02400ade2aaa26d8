"""What it costs to check that what is read is what was written, as a share of the stage that reads it.

Shards: their footers and page checksums, which each process looks at once, beside the epochs of a training; of these
only the loading is counted, as if GPUs computed in no time. Weights: the sha256 of a full-size depth net beside the
evaluation of one frame, which opens it. Frames are 375×1242, from the synthetic world; files lie in the page cache.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from benchmarks.bench_loader import epoch
from benchmarks.measure import seconds, single_thread, store
from benchmarks.world import pack, render
from simipu_core.artifacts import read_manifest, write_artifact
from simipu_core.config import DepthAugmentConfig, EvaluateConfig, FinetuneConfig, PairConfig, PretrainConfig
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.stages.evaluate import evaluate

EPOCHS = {"pairs": PretrainConfig().epochs, "depth": FinetuneConfig().epochs}


def read(path: Path, *, is_checked: bool) -> None:
    """All row groups of an artifact's shards."""
    for file in path.glob("*.parquet"):
        with pq.ParquetFile(file, memory_map=True, page_checksum_verification=is_checked) as shard:
            for group in range(shard.num_row_groups):
                shard.read_row_group(group, use_threads=False)


def tasks_of(path: Path, kind: Literal["pairs", "depth"]) -> dict[str, Callable[[], None]]:
    """Loading as it is, and what of it is checking."""
    make = PairViews(PretrainConfig()) if kind == "pairs" else DepthViews(DepthAugmentConfig(), 1.0)
    return {
        "epoch": lambda: epoch(path, kind, make),
        "open": lambda: Shards(path, "pairs") if kind == "pairs" else Shards(path, "depth", "train"),  # type: ignore[dict-item, return-value]
        "checked": lambda: read(path, is_checked=True),
        "unchecked": lambda: read(path, is_checked=False),
    }


def depth_net(out: Path) -> Path:
    """A full-size net with its first weights."""
    config = FinetuneConfig(init="kaiming_zero_gamma")
    with write_artifact(out, "depth_net", inputs={}, parameters={}, licence="CC0-1.0") as draft:
        save_depth_net(build_depth_net(config, None), draft.path / "model.safetensors")
    return out


def main(num_frames: int = 16, rounds: int = 7) -> None:
    """Measure, print and store."""
    single_thread()
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        render(root / "raw", num_frames)
        for encoding in ("source", "jpeg", "raw"):
            pairs, depth = pack(root / "raw", root / encoding, PairConfig(image_encoding=encoding))
            for kind, path in (("pairs", pairs), ("depth", depth)):
                spent = seconds(tasks_of(path, kind), rounds)  # type: ignore[arg-type]
                checking = spent["checked"] - spent["unchecked"] + spent["open"]
                shares[f"{kind}_{encoding}"] = checking / spent["epoch"] / EPOCHS[kind]
        net, out = depth_net(root / "net"), iter(range(100))
        config = EvaluateConfig(device="cpu")
        spent = seconds(
            {
                "check": lambda: read_manifest(net),
                "stage": lambda: evaluate(net, depth, config, root / f"report{next(out)}"),
            },
            rounds=2,
            warm_up=False,
        )
    store(
        "integrity",
        {
            "image_size": [375, 1242],
            "epochs": EPOCHS,
            "share_of_loading": shares,
            "share_of_evaluating_one_frame": spent["check"] / spent["stage"],
            "goal": 0.03,
        },
    )


if __name__ == "__main__":
    main()
