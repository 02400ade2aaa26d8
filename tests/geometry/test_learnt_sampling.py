from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from simipu_core.geometry.learnt_sampling import ball_query_on_device, feature_halves
from simipu_core.geometry.neighbours import ball_query


def slow_farthest(points: Tensor, num: int) -> list[int]:
    picks = [0]
    for _ in range(num - 1):
        nearest = [min(float((point - points[pick]).square().sum()) for pick in picks) for point in points]
        picks.append(int(np.argmax(nearest)))
    return picks


def cloud(num: int, channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(2, num, 3, generator=generator) * 20
    return xyz, torch.rand(2, num, channels, generator=generator) * 30


def test_halves_equal_the_definition() -> None:
    xyz, features = cloud(60, 5)
    picked = feature_halves(xyz, features, 20, split=False)
    for sample in range(2):
        both = torch.cat([xyz[sample], features[sample]], dim=1).double()
        expected = slow_farthest(both, 10) + slow_farthest(xyz[sample].double(), 10)
        assert picked[sample].tolist() == expected


def test_inherited_split_takes_all_first_rows_and_positions_from_the_others() -> None:
    """docs/method.md, "Acceptance numbers": the feature half of the last level is a permutation of its first rows."""
    xyz, features = cloud(64, 4, seed=1)
    picked = feature_halves(xyz, features, 32, split=True)
    for sample in range(2):
        assert sorted(picked[sample, :16].tolist()) == list(range(16))
        assert picked[sample, 16:].tolist() == [16 + row for row in slow_farthest(xyz[sample, 16:].double(), 16)]


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("order", ["first", "nearest"])
def test_ball_query_equals_the_loaders(ring: bool, order: Literal["first", "nearest"]) -> None:
    xyz, _ = cloud(700, 1, seed=2)
    xyz[:, 30:40] = xyz[:, :10]  # duplicates
    centres = xyz[:, :600]
    radii, counts = (1.0, 2.5, 6.0), (4, 8, 40)
    found = ball_query_on_device(xyz, centres, radii, counts, ring=ring, order=order)
    for sample in range(2):
        expected = ball_query(xyz[sample].numpy(), centres[sample].numpy(), radii, counts, ring=ring, order=order)
        for ours, theirs in zip(found, expected, strict=True):
            if order == "first":
                np.testing.assert_array_equal(ours[sample], theirs)
            else:  # coinciding points may swap places
                torch.testing.assert_close(xyz[sample][ours[sample]], xyz[sample][torch.from_numpy(theirs).long()])
