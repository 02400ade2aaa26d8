from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simipu_core.config import PointEncoderConfig, SetAbstractionConfig
from simipu_core.data.batches import Level, PointView
from simipu_core.data.views import neighbourhoods
from simipu_core.geometry.learnt_sampling import feature_halves
from simipu_core.geometry.neighbours import ball_query
from simipu_core.geometry.sampling import farthest_points
from simipu_core.models.point_encoder import PointEncoder, SetAbstraction, gather_rows

LEVELS: Any = tuple(
    SetAbstractionConfig(num_points=m, radii=(4.0, 9.0), num_neighbours=(3, 5), mlps=((6, 7), (6, 9)), out_channels=o)
    for m, o in ((20, 11), (8, 12))
)


def slow_level(level: SetAbstraction, features: Tensor, geometry: Level) -> Tensor:
    """Centre by centre, in evaluation mode (BatchNorm as a fixed scaling)."""
    result = []
    for sample in range(len(features)):
        for number in range(geometry.centres.shape[1]):
            pooled = []
            for mlp, rows in zip(level.scales, geometry.neighbours, strict=True):
                group = [features[sample, row] for row in rows[sample, number]]
                pooled.append(torch.stack([mlp(feature[None])[0] for feature in group]).max(dim=0).values)
            result.append(level.aggregation(torch.cat(pooled)[None])[0])
    return torch.stack(result).view(len(features), -1, result[0].shape[-1])


def make_view(config: PointEncoderConfig) -> PointView:
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(-10, 10, (50, 3)).astype(np.float32) for _ in range(2)]
    per_cloud = [neighbourhoods(cloud, farthest_points(cloud, 20), config) for cloud in clouds]
    levels = [
        Level(
            torch.from_numpy(np.stack([rows for rows, _ in level])),
            [torch.from_numpy(np.stack([found[radius] for _, found in level])) for radius in range(2)],
        )
        for level in zip(*per_cloud, strict=True)
    ]
    features = torch.from_numpy(rng.uniform(0, 1, (2, 50, config.num_features)).astype(np.float32))
    return PointView(torch.from_numpy(np.stack(clouds)), features, levels)


def make_encoder(**changes: Any) -> tuple[PointEncoder, PointView]:
    config = PointEncoderConfig(**({"levels": LEVELS, "input_features": "reflectance"} | changes))
    torch.manual_seed(0)
    return PointEncoder(config), make_view(config)


def test_equals_a_loop_over_centres() -> None:
    encoder, view = make_encoder()
    encoder.eval()
    with torch.no_grad():
        first = slow_level(encoder.levels[0], view.features, view.levels[0])  # type: ignore[arg-type]
        second = slow_level(encoder.levels[1], first, view.levels[1])  # type: ignore[arg-type]
        encoded = encoder(view)
    torch.testing.assert_close(encoded.features, second)
    assert second.shape == (2, 8, 12)
    torch.testing.assert_close(encoded.rows, view.levels[0].centres[:, :8])


def test_learnt_picks_and_their_neighbourhoods_go_through_the_same_layers() -> None:
    encoder, view = make_encoder(sampling="feature_halves", inherited_split=True, neighbours="first")
    encoder.eval()
    with torch.no_grad():
        encoded = encoder(view)
        first = slow_level(encoder.levels[0], view.features, view.levels[0])  # type: ignore[arg-type]
        xyz = torch.stack([cloud[rows] for cloud, rows in zip(view.xyz, view.levels[0].centres, strict=True)])
        centres = feature_halves(xyz, first, 8, split=True)
        rows = [
            ball_query(c.numpy(), c[r].numpy(), (4.0, 9.0), (3, 5), ring=True, order="first")
            for c, r in zip(xyz, centres, strict=True)
        ]
        geometry = Level(centres, [torch.from_numpy(np.stack(found)) for found in zip(*rows, strict=True)])
        second = slow_level(encoder.levels[1], first, geometry)  # type: ignore[arg-type]
    torch.testing.assert_close(encoded.features, second)
    torch.testing.assert_close(encoded.rows, view.levels[0].centres.gather(1, centres))


def test_recomputing_groups_changes_nothing_but_memory() -> None:
    plain, view = make_encoder()
    sparing, _ = make_encoder(recompute_groups=True)
    for encoder in (plain, sparing):
        encoder(view).features.square().sum().backward()
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), sparing.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, kept), (_, recomputed) in zip(plain.named_buffers(), sparing.named_buffers(), strict=True):
        torch.testing.assert_close(kept, recomputed, msg=name)


@pytest.mark.parametrize("sampling", ["distance", "feature_halves"])
@pytest.mark.parametrize("features", ["reflectance", "reflectance_xyz"])
def test_mixed_precision_leaves_the_point_encoder_alone_unless_it_is_asked_for(sampling: str, features: str) -> None:
    settings = {"sampling": sampling, "input_features": features}
    (full, view), (mixed, _) = make_encoder(**settings), make_encoder(**settings, mixed_precision=True)
    expected = full(view)
    with torch.autocast("cpu", torch.bfloat16):
        kept, rounded = full(view), mixed(view)
    assert kept.features.dtype == torch.float32
    assert torch.equal(kept.features, expected.features)
    assert torch.equal(kept.rows, expected.rows)
    assert rounded.features.dtype == torch.bfloat16


def test_neighbourhoods_are_measured_in_float32_whatever_the_precision() -> None:
    """At 50 m a bfloat16 has steps of 0.25 m."""
    encoder, view = make_encoder(sampling="feature_halves", neighbours="first", mixed_precision=True)
    far = view.xyz + torch.tensor([50.0, 0, 0])
    features = torch.rand(2, 50, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder._geometry(1, far, features)
    centres = gather_rows(far, found.centres)
    for sample in range(2):
        arguments = (far[sample].numpy(), centres[sample].numpy(), (4.0, 9.0), (3, 5))
        for rows, theirs in zip(found.neighbours, ball_query(*arguments, ring=True, order="first"), strict=True):
            np.testing.assert_array_equal(rows[sample], theirs)
