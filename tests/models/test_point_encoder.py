from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simipu_core.config import PointEncoderConfig, SetAbstractionConfig
from simipu_core.data.views import neighbourhoods
from simipu_core.geometry.sampling import farthest_points
from simipu_core.models.point_encoder import PointEncoder, SetAbstraction

LEVELS: Any = tuple(
    SetAbstractionConfig(num_points=m, radii=(4.0, 9.0), num_neighbours=(3, 5), mlps=((6, 7), (6, 9)), out_channels=o)
    for m, o in ((20, 11), (8, 12))
)


def slow_level(level: SetAbstraction, xyz: Tensor, features: Tensor, neighbours: list[Tensor]) -> Tensor:
    """Centre by centre, in evaluation mode (BatchNorm as a fixed scaling)."""
    result = []
    for sample in range(len(xyz)):
        for centre in range(neighbours[0].shape[1]):
            pooled = []
            for mlp, rows in zip(level.scales, neighbours, strict=True):
                group = [features[sample, row] for row in rows[sample, centre]]
                if level.relative:
                    group = [
                        torch.cat([xyz[sample, row] - xyz[sample, centre], feature])
                        for row, feature in zip(rows[sample, centre], group, strict=True)
                    ]
                pooled.append(torch.stack([mlp(feature[None])[0] for feature in group]).max(dim=0).values)
            result.append(level.aggregation(torch.cat(pooled)[None])[0])
    return torch.stack(result).view(len(xyz), -1, result[0].shape[-1])


@pytest.mark.parametrize("coordinates", ["none", "relative"])
def test_equals_a_loop_over_centres(coordinates: str) -> None:
    config = PointEncoderConfig(levels=LEVELS, coordinates=coordinates)
    torch.manual_seed(0)
    encoder = PointEncoder(config).eval()
    rng = np.random.default_rng(0)
    clouds = []
    for _ in range(2):
        cloud = rng.uniform(-10, 10, (50, 3)).astype(np.float32)
        picked = farthest_points(cloud, 20)
        clouds.append(cloud[np.concatenate([picked, np.setdiff1d(np.arange(50), picked)])])
    xyz = torch.from_numpy(np.stack(clouds))
    features = torch.from_numpy(rng.uniform(0, 1, (2, 50, 1)).astype(np.float32))
    per_cloud = [neighbourhoods(cloud, config) for cloud in clouds]
    neighbours = [
        [torch.from_numpy(np.stack([cloud[level][r] for cloud in per_cloud])) for r in range(2)] for level in range(2)
    ]
    with torch.no_grad():
        first = slow_level(encoder.levels[0], xyz, features, neighbours[0])  # type: ignore[arg-type]
        second = slow_level(encoder.levels[1], xyz[:, :20], first, neighbours[1])  # type: ignore[arg-type]
        torch.testing.assert_close(encoder(xyz, features, neighbours), second)
    assert second.shape == (2, 8, 12)
