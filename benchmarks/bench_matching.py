"""Matching of two views, 1,024 × 1,024 points from independent sampling starts, against Hungarian assignment.

`index`, the default, needs no matching: both views pick the same points.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import seconds, single_thread, store
from benchmarks.recipes import pair_sample
from benchmarks.world import render
from simipu_core.config import PretrainConfig
from simipu_core.geometry.matching import hungarian, match_points, mutual_nearest
from simipu_core.geometry.sampling import farthest_points


def main(rounds: int = 15) -> None:
    """Measure, print and store."""
    single_thread()
    config, rng = PretrainConfig(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        sample = pair_sample(render(Path(folder) / "raw", 1), 0, config, rng)
    xyz = np.ascontiguousarray(sample.points[:, :3].numpy())
    shuffled = xyz[rng.permutation(len(xyz))]
    num = config.point_encoder.levels[-1].num_points
    a, b = xyz[farthest_points(xyz, num)], shuffled[farthest_points(shuffled, num)]
    spent = seconds(
        {
            "hungarian": lambda: hungarian(a, b),
            "mutual_nearest": lambda: mutual_nearest(a, b),
            "index": lambda: match_points(a, b, "index"),
        },
        rounds,
    )
    kept = mutual_nearest(a, b)
    pairs = {"hungarian": (a, b[hungarian(a, b)]), "mutual_nearest": (a[kept >= 0], b[kept[kept >= 0]])}
    store(
        "matching",
        {
            "points": num,
            "cpu_ms": {name: 1e3 * value for name, value in spent.items()},
            "hungarian_over_mutual_nearest": spent["hungarian"] / spent["mutual_nearest"],
            "pairs": {name: len(left) for name, (left, _) in pairs.items()},
            "mean_distance_m": {
                name: float(np.linalg.norm(left - right, axis=1).mean()) for name, (left, right) in pairs.items()
            },
            "goal": 15,
        },
    )


if __name__ == "__main__":
    main()
