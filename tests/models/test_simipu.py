from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from simipu_core.config import ContrastConfig, HeadConfig, PretrainConfig
from simipu_core.config.presets import with_preset
from simipu_core.data.batches import PairBatch
from simipu_core.data.views import PairViews
from simipu_core.experiment import Experiment
from simipu_core.models.image_encoder import _gathered_features, sample_features
from simipu_core.models.point_encoder import PointEncoder
from simipu_core.models.simipu import SimIPU
from tests.samples import pair_row, tiny_pretrain


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_batch(config: PretrainConfig, size: int = 2) -> PairBatch:
    return PairViews(config)([pair_row(i) for i in range(size)], [np.random.default_rng(i) for i in range(size)])


def test_parameter_counts_at_reference_size() -> None:
    """docs/method.md, "Acceptance numbers"."""
    model = SimIPU(Experiment(experiment="reference", preset="reference").pretrain)
    assert num_parameters(model.point_encoder) == 1_778_432
    assert num_parameters(model.intra_head) == num_parameters(model.cross_point_head) == 2_234_752
    assert num_parameters(model.cross_image_head) == 8_663_424
    assert num_parameters(model.image_encoder) == 23_508_032


def test_published_projection_sample() -> None:
    """docs/method.md, "Acceptance numbers":
    (u, v) = (600, 180) of 375×1242, resized to 302×1000, padded to 320×1024, flipped."""
    u, v = 600 * 1000 / 1242, 180 * 302 / 375
    pixels = torch.tensor([[[1000 - u, v]]], dtype=torch.float64)
    size = torch.tensor([320, 1024])
    columns = torch.arange(32.0, dtype=torch.float64).expand(10, 32)
    rows = torch.arange(10.0, dtype=torch.float64)[:, None].expand(10, 32)
    maps = torch.stack([columns, rows])[None]
    sampled = sample_features(maps, pixels, size, align_corners=True)
    # that row comes from a grid value, rounded to -0.094
    np.testing.assert_allclose(sampled[0, 0], [15.64859, 4.077], atol=1e-4)


def test_half_pixel_sampling_puts_features_where_strides_do() -> None:
    maps = torch.arange(8.0).expand(1, 1, 4, 8)
    pixels = torch.tensor([[[15.5, 20.0], [47.5, 20.0], [240.0, 20.0], [400.0, 20.0]]])
    sampled = sample_features(maps, pixels, torch.tensor([128, 256]), align_corners=False)
    np.testing.assert_allclose(sampled[0, :2, 0], [0, 1], atol=1e-5)  # centres of the first two cells
    assert sampled[0, 3, 0] == 0  # outside


@pytest.mark.parametrize("align_corners", [False, True])
def test_features_are_gathered_as_grid_sample_does(align_corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 7, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 60, 2, generator=generator, dtype=torch.float64) * 2.6 - 1.3  # some outside
    expected = F.grid_sample(maps, grid[:, None], align_corners=align_corners)[:, :, 0].transpose(1, 2)
    found = _gathered_features(maps, grid, align_corners=align_corners)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((values * weights).sum(), maps)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients)


def published(pairing: str = "hungarian", **changes: Any) -> ContrastConfig:
    return ContrastConfig(pairing=pairing, stop_point_gradient=True, symmetric_inter=False, **changes)


@pytest.mark.parametrize("pairing", ["index", "mutual_nearest", "hungarian"])
def test_gradient_routing_as_published(pairing: str) -> None:
    """docs/method.md, "Acceptance numbers":
    the cross-point head gets nothing; each encoder learns from its own loss alone."""
    config = tiny_pretrain(published(pairing, feature_strides=(32,)))
    torch.manual_seed(0)
    model = SimIPU(config)
    batch = make_batch(config)

    def gradients(intra: float, inter: float) -> dict[str, torch.Tensor | None]:
        model.zero_grad(set_to_none=True)
        output = model(batch)
        (intra * output.terms["intra"].loss + inter * output.terms["inter"].loss).backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}

    both, only_intra, only_inter = gradients(1, 1), gradients(1, 0), gradients(0, 1)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("cross_point_head"))
        assert (both[name] is None) == name.startswith("cross_point_head")
        alone = only_intra if name.startswith(("point_encoder", "intra_head")) else only_inter
        if parameter.requires_grad:
            torch.testing.assert_close(both[name], alone[name])


def test_intra_gradient_comes_from_the_original_view_alone() -> None:
    config = tiny_pretrain(published("index"))
    model = SimIPU(config)
    batch = make_batch(config)
    batch.original.features.requires_grad_()
    batch.augmented.features.requires_grad_()
    model(batch).terms["intra"].loss.backward()
    assert batch.original.features.grad is not None
    assert batch.augmented.features.grad is None


@pytest.mark.parametrize("strides", [(16,), (8, 16, 32)])
def test_improved_routing_reaches_every_trainable_parameter(strides: Any) -> None:
    config = tiny_pretrain(ContrastConfig(feature_strides=strides))
    model = SimIPU(config)
    model(make_batch(config)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad), name
        assert parameter.requires_grad == (strides[-1] == 32 or not name.startswith("image_encoder.layer4")), name
    model.zero_grad()
    model(make_batch(config)).terms["inter"].loss.backward()
    assert model.point_encoder.levels[0].scales[0][0].weight.grad is not None  # type: ignore[union-attr, index]


def test_level_sizes_and_published_picks_at_reference_size() -> None:
    """docs/method.md, "Acceptance numbers": 16384 → 4096 → 2048 → 1024; level 3 begins with level-2 rows 0 … 511."""
    config = Experiment(experiment="reference", preset="reference").pretrain
    batch = PairViews(config)([pair_row(0, 20000)], [np.random.default_rng(0)])
    assert batch.original.xyz.shape == (1, 16384, 3)
    encoder = PointEncoder(config.point_encoder).eval()
    centres: list[torch.Tensor] = []
    for level in encoder.levels:
        level.register_forward_pre_hook(lambda _, inputs: centres.append(inputs[1].centres[0]))
    with torch.no_grad():
        encoded = encoder(batch.original)
    assert [len(rows) for rows in centres] == [4096, 2048, 1024]
    assert encoded.features.shape == (1, 1024, 1024)
    assert sorted(centres[2][:512].tolist()) == list(range(512))
    assert centres[2][512:].min() >= 512
    assert centres[1][1024:].tolist() == list(range(1024))  # positions: the first picks of level 1 again


def test_reference_preset_trains_as_published() -> None:
    values = tiny_pretrain().model_dump(exclude={"contrast", "input"})
    values["point_encoder"] = {"levels": values["point_encoder"]["levels"]}
    values["image_encoder"] = {"name": "resnet18"}
    pretrain = with_preset({"pretrain": values}, "reference")["pretrain"]
    config = PretrainConfig.model_validate(pretrain)
    torch.manual_seed(0)
    model = SimIPU(config)
    output = model(make_batch(config, 4))
    output.loss.backward()
    assert output.match_distance.isnan().sum() == 0  # Hungarian: everyone has a partner
    assert model.cross_point_head[0].weight.grad is None
    assert model.image_encoder.get_submodule("bn1").eps == 1e-3
    blue, red = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    blue[:, 2], red[:, 0] = 255, 255
    torch.testing.assert_close(model.normalize(blue)[0, :, 0, 0], torch.tensor([255 - 103.53, -116.28, -123.675]))
    torch.testing.assert_close(model.normalize(red)[0, :, 0, 0], torch.tensor([-103.53, -116.28, 255 - 123.675]))


def test_own_extent_stretches_the_smaller_images_of_a_batch() -> None:
    """docs/method.md, "Pixel features": the published code divides by the image's own padded size."""
    extents = []
    for extent in ("batch", "image"):
        config = tiny_pretrain(published(sampling_extent=extent, feature_sampling="align_corners"))
        model = SimIPU(config)
        ramp = torch.linspace(0, 1, 12).expand(2, 1, 8, 12)
        batch = make_batch(config)
        batch = replace(
            batch,
            images=torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
            image_sizes=torch.tensor([[64, 96], [30, 48]]),
            pixels=torch.tensor([[24.0, 10.0]]).expand(2, 1, 2),
        )
        with patch("simipu_core.models.image_branch.feature_maps", return_value=[ramp] * 5):
            maps = model.maps(batch.images, batch.image_sizes)
            features = model.at_pixels(maps, batch.pixels, model.extent(batch))
            extents.append(features[:, 0, 0])
    torch.testing.assert_close(extents[0], torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(extents[1], torch.tensor([0.25, 24 / 64]))


def test_the_loss_is_the_sum_of_its_weighted_terms() -> None:
    config = tiny_pretrain(ContrastConfig(intra_weight=0.5, inter_weight=2.0))
    output = SimIPU(config)(make_batch(config))
    terms = output.terms
    assert terms.keys() == {"intra", "inter"}
    torch.testing.assert_close(output.loss, 0.5 * terms["intra"].loss + 2 * terms["inter"].loss)


def test_inter_loss_starts_near_chance() -> None:
    """docs/method.md, "Acceptance numbers": from the chance level to about one above it for 128-d embeddings."""
    config = tiny_pretrain(batch_size=4, heads=HeadConfig(point_hidden=128, image_hidden=128))
    torch.manual_seed(1)
    batch = make_batch(config, 4)
    output = SimIPU(config)(batch)
    chance = np.log(output.is_visible.sum().item())
    assert chance - 0.2 < output.terms["inter"].loss.item() < chance + 2.5


def test_groups_keep_their_negatives_to_themselves() -> None:
    config = tiny_pretrain(ContrastConfig(group_size=1))
    torch.manual_seed(1)
    model = SimIPU(config).eval()
    apart = model(make_batch(config, 2)).terms["inter"].loss
    together = SimIPU(tiny_pretrain(ContrastConfig(group_size=2)))
    together.load_state_dict(model.state_dict())
    assert together.eval()(make_batch(config, 2)).terms["inter"].loss > apart


def test_padding_does_not_reach_the_network_as_colour() -> None:
    config = tiny_pretrain()
    batch = make_batch(config)
    model = SimIPU(config)
    with patch(
        "simipu_core.models.image_branch.feature_maps", side_effect=lambda _, images, num: [images] * num
    ) as seen:
        model.maps(batch.images, batch.image_sizes)
    for image, (height, width) in zip(seen.call_args.args[1], batch.image_sizes.tolist(), strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        assert image[:, :height, :width].any()


def test_the_intra_head_remembers_the_original_view_first() -> None:
    """As in the published code, whose buffers are so met: 0.9 (0.9 start + 0.1 original) + 0.1 augmented."""
    config = tiny_pretrain(published("index"))
    model, batch = SimIPU(config), make_batch(config)
    first, norm = model.intra_head[0], model.intra_head[1]
    original, augmented = (
        first(model.point_encoder(view).features.flatten(0, 1)).detach() for view in (batch.original, batch.augmented)
    )
    model(batch)
    mean = 0.1 * (0.9 * original.mean(dim=0) + augmented.mean(dim=0))
    variance = 0.9**2 + 0.1 * (0.9 * original.var(dim=0) + augmented.var(dim=0))
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.num_batches_tracked == 2
