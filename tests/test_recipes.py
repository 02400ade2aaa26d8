"""The benchmarks' plain recipes compute what the project computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import recipes
from benchmarks.world import depth_files, pack, render
from simipu_core.config import DepthAugmentConfig, PairConfig, PointEncoderConfig, PretrainConfig, SetAbstractionConfig
from simipu_core.data.batches import Level
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews, neighbourhoods
from simipu_core.geometry.sampling import farthest_points
from simipu_core.models.point_encoder import SetAbstraction

LEVELS: Any = tuple(
    SetAbstractionConfig(num_points=m, radii=(2.5, 5.5), num_neighbours=(4, 9), mlps=((5, 6), (5, 7)), out_channels=8)
    for m in (40, 15)
)


@pytest.mark.parametrize("use_topk", [False, True])
def test_neighbourhoods(use_topk: bool) -> None:
    config = PointEncoderConfig(levels=LEVELS, ring=False, neighbours="first")
    rng = np.random.default_rng(0)
    xyz = rng.permutation(np.stack(np.meshgrid(*3 * [np.arange(7)]), axis=-1).reshape(-1, 3))[:200].astype(np.float32)
    xyz[:, 0] += np.arange(200, dtype=np.float32) / 1024  # without ties, and squares stay exact
    ours = neighbourhoods(xyz, farthest_points(xyz, 40), config)
    plain = recipes.levels(torch.from_numpy(xyz)[None], config, use_topk=use_topk)
    for (our_rows, our_found), (rows, found) in zip(ours, plain, strict=True):
        assert our_rows.tolist() == rows[0].tolist()
        for ours_of_radius, of_radius in zip(our_found, found, strict=True):
            assert ours_of_radius.tolist() == of_radius[0].tolist()


def test_layers_on_every_member() -> None:
    torch.manual_seed(0)
    level = SetAbstraction(3, LEVELS[0], PointEncoderConfig(levels=LEVELS))
    features = torch.rand(2, 60, 3)
    geometry = Level(torch.randint(60, (2, 40)), [torch.randint(60, (2, 40, num)) for num in (4, 9)])
    for mlp, rows in zip(level.scales, geometry.neighbours, strict=True):
        ours = level._pool(mlp, features, rows)
        torch.testing.assert_close(recipes.pool_every_member(level, mlp, features, rows), ours)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, recipes.Folder]:
    root = tmp_path_factory.mktemp("world")
    return root, render(root / "raw", 1)


def test_reading_a_folder_gives_what_shards_give(world: tuple[Path, recipes.Folder]) -> None:
    root, folder = world
    pairs, depth = pack(root / "raw", root, PairConfig())
    augment = DepthAugmentConfig()
    drives = depth_files(root / "raw", 1)
    row = Shards(depth, "depth", "train").row(0)
    for seed in range(4):
        image, metres = recipes.depth_sample(drives, 0, augment, np.random.default_rng(seed))
        ours = DepthViews(augment, 1.0)([row], [np.random.default_rng(seed)])
        assert (image.int() - ours.images[0]).abs().max() <= 1  # of a table of rounded values, or rounded at the end
        torch.testing.assert_close(metres, ours.depth[0])

    config = PretrainConfig(point_encoder=PointEncoderConfig(levels=LEVELS))
    pair_row = Shards(pairs, "pairs").row(0)
    for seed in range(2):
        sample = recipes.pair_sample(folder, 0, config, np.random.default_rng(seed))
        batch = PairViews(config)([pair_row], [np.random.default_rng(seed)])
        torch.testing.assert_close(recipes.padded([sample.image], 32), batch.images)
        torch.testing.assert_close(sample.points[:, :3], batch.original.xyz[0])
        torch.testing.assert_close(sample.augmented, batch.augmented.xyz[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(sample.pixels, batch.pixels[0], atol=1e-2, rtol=0)
