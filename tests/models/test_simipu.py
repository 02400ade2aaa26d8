import numpy as np
import pytest
import torch
from torch import nn

from simipu_core.config import ContrastConfig, HeadConfig, PretrainConfig
from simipu_core.data.views import PairBatch, PairViews
from simipu_core.models.point_encoder import PointEncoder
from simipu_core.models.projection import projection_head
from simipu_core.models.simipu import SimIPU, sample_features
from tests.samples import pair_row, tiny_pretrain


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_batch(config: PretrainConfig, size: int = 2) -> PairBatch:
    return PairViews(config)([pair_row(i) for i in range(size)], [np.random.default_rng(i) for i in range(size)])


def test_parameter_counts_at_reference_size() -> None:
    """Reference section 12.1."""
    assert num_parameters(PointEncoder(PretrainConfig().point_encoder)) == 1_778_432
    assert num_parameters(projection_head(1024, 1024, 128)) == 2_234_752
    assert num_parameters(projection_head(2048, 2048, 128)) == 8_663_424


def test_published_projection_sample() -> None:
    """Reference section 12.3: (u, v) = (600, 180) of 375×1242, resized to 302×1000, padded to 320×1024, flipped."""
    u, v = 600 * 1000 / 1242, 180 * 302 / 375
    pixels = torch.tensor([[[1000 - u, v]]], dtype=torch.float64)
    columns = torch.arange(32.0, dtype=torch.float64).expand(10, 32)
    rows = torch.arange(10.0, dtype=torch.float64)[:, None].expand(10, 32)
    maps = torch.stack([columns, rows])[None]
    sampled = sample_features(maps, pixels, (320, 1024), ContrastConfig(feature_sampling="align_corners"))
    # the sheet's row comes from its grid value, rounded to -0.094
    np.testing.assert_allclose(sampled[0, 0], [15.64859, 4.077], atol=1e-4)


def test_half_pixel_sampling_puts_features_where_strides_do() -> None:
    maps = torch.arange(8.0).expand(1, 1, 4, 8)
    pixels = torch.tensor([[[15.5, 20.0], [47.5, 20.0], [240.0, 20.0], [400.0, 20.0]]])
    sampled = sample_features(maps, pixels, (128, 256), ContrastConfig())
    np.testing.assert_allclose(sampled[0, :2, 0], [0, 1], atol=1e-5)  # centres of the first two cells
    assert sampled[0, 3, 0] == 0  # outside


@pytest.mark.parametrize("pairing", ["index", "mutual_nearest", "hungarian"])
def test_gradient_routing_as_published(pairing: str) -> None:
    """Reference section 12.2: the cross-point head gets nothing; each encoder learns from its own loss alone."""
    contrast = ContrastConfig(pairing=pairing)
    config = tiny_pretrain(contrast)
    torch.manual_seed(0)
    model = SimIPU(config)
    batch = make_batch(config)

    def gradients(intra: float, inter: float) -> dict[str, torch.Tensor | None]:
        model.zero_grad(set_to_none=True)
        output = model(batch)
        (intra * output.intra.loss + inter * output.inter.loss).backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}

    both, only_intra, only_inter = gradients(1, 1), gradients(1, 0), gradients(0, 1)
    assert all(both[name] is None for name in both if name.startswith("cross_point_head"))
    for name in both:
        alone = only_intra if name.startswith(("point_encoder", "intra_head")) else only_inter
        if both[name] is not None:
            torch.testing.assert_close(both[name], alone[name])
    assert both["point_encoder.levels.0.scales.0.0.weight"] is not None
    assert both["image_encoder.conv1.weight"] is not None


def test_gradient_reaches_the_point_side_when_not_stopped() -> None:
    config = tiny_pretrain(ContrastConfig(stop_point_gradient=False, symmetric_inter=True))
    model = SimIPU(config)
    model(make_batch(config)).inter.loss.backward()
    assert model.cross_point_head[0].weight.grad is not None
    assert model.point_encoder.levels[0].scales[0][0].weight.grad is not None  # type: ignore[union-attr, index]


def test_inter_loss_starts_near_chance() -> None:
    """Reference section 12.2: from the chance level to about one above it for 128-d embeddings."""
    config = tiny_pretrain(batch_size=4, heads=HeadConfig(point_hidden=128, image_hidden=128))
    torch.manual_seed(1)
    batch = make_batch(config, 4)
    chance = np.log(batch.is_visible.sum().item())
    assert chance - 0.2 < SimIPU(config)(batch).inter.loss.item() < chance + 2.5


def test_groups_keep_their_negatives_to_themselves() -> None:
    config = tiny_pretrain(ContrastConfig(group_size=1))
    torch.manual_seed(1)
    model = SimIPU(config).eval()
    apart = model(make_batch(config, 2)).inter.loss
    together = SimIPU(tiny_pretrain(ContrastConfig(group_size=2)))
    together.load_state_dict(model.state_dict())
    assert together.eval()(make_batch(config, 2)).inter.loss > apart


def test_padding_does_not_reach_the_network_as_colour() -> None:
    config = tiny_pretrain()
    batch = make_batch(config)
    images = SimIPU(config)._images(batch)
    for image, (height, width) in zip(images, batch.image_sizes.tolist(), strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        assert image[:, :height, :width].any()
