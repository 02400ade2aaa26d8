"""Point geometry at the reference sizes, 16,384 → 4,096 → 2,048 → 1,024 with three radii each, against plain PyTorch.

Ours does what the plain recipe does (`first`, full balls) and, as the presets ask, rings of the nearest.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import seconds, single_thread, store
from benchmarks.recipes import levels, pair_sample
from benchmarks.world import render
from simipu_core.config import PointEncoderConfig, PretrainConfig
from simipu_core.data.views import neighbourhoods
from simipu_core.geometry.sampling import farthest_points


def main(rounds: int = 5) -> None:
    """Measure, print and store."""
    single_thread()
    with tempfile.TemporaryDirectory() as folder:
        sample = pair_sample(render(Path(folder) / "raw", 1), 0, PretrainConfig(), np.random.default_rng(0))
    xyz, moved = np.ascontiguousarray(sample.points[:, :3].numpy()), sample.augmented.numpy()
    rings = PointEncoderConfig()
    balls = PointEncoderConfig(ring=False, neighbours="first")
    num = rings.levels[0].num_points

    def two_views() -> None:
        picks = farthest_points(xyz, num)
        neighbourhoods(xyz, picks, rings)
        neighbourhoods(moved, picks, rings)

    tensor = torch.from_numpy(xyz)[None]
    spent = seconds(
        {
            "ours": lambda: neighbourhoods(xyz, farthest_points(xyz, num), rings),
            "ours_same_neighbours": lambda: neighbourhoods(xyz, farthest_points(xyz, num), balls),
            "ours_two_views": two_views,
            "plain": lambda: levels(tensor, balls),
            "plain_topk": lambda: levels(tensor, balls, use_topk=True),
        },
        rounds,
    )
    store(
        "geometry",
        {
            "points": [len(xyz), *(level.num_points for level in rings.levels)],
            "cpu_ms": {name: 1e3 * value for name, value in spent.items()},
            "plain_over_ours": spent["plain"] / spent["ours"],
            "plain_over_ours_same_neighbours": spent["plain"] / spent["ours_same_neighbours"],
            "plain_over_ours_two_views": 2 * spent["plain"] / spent["ours_two_views"],
            "plain_topk_over_ours": spent["plain_topk"] / spent["ours"],
            "goal": 40,
        },
    )


if __name__ == "__main__":
    main()
