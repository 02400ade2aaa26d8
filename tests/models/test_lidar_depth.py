"""Pre-training on the scans' depth: alone, and beside the contrast."""

from typing import Any

import numpy as np
import pytest
import torch

from simipu_core.config import LidarDepthConfig, PretrainConfig
from simipu_core.data.scan_depth import ScanDepthViews
from simipu_core.losses.sig_loss import sig_loss
from simipu_core.models.image_branch import LidarDepth
from simipu_core.models.simipu import SimIPU
from simipu_core.training.optimizers import pretraining_optimizers
from tests.models.test_simipu import make_batch
from tests.samples import pair_row, tiny_pretrain

NARROW = LidarDepthConfig(decoder_channels=(32, 16, 16, 8))


def generators(num: int) -> list[np.random.Generator]:
    return [np.random.default_rng(number) for number in range(num)]


def config(objective: str, **changes: Any) -> PretrainConfig:
    return tiny_pretrain(objective=objective, lidar_depth=NARROW.model_copy(update=changes))


def test_both_is_the_sum_in_one_pass_of_the_encoder() -> None:
    torch.manual_seed(0)
    model = SimIPU(config("both", weight=0.5))
    passes: list[int] = []
    model.image_encoder["conv1"].register_forward_hook(lambda *_: passes.append(1))  # type: ignore[index]
    terms = (output := model(make_batch(model.config))).terms
    assert terms.keys() == {"intra", "inter", "lidar_depth"}
    assert len(passes) == 1
    expected = terms["intra"].loss + terms["inter"].loss + 0.5 * terms["lidar_depth"].loss
    torch.testing.assert_close(output.loss, expected)


def test_the_contrast_is_the_same_beside_it() -> None:
    alone = SimIPU(config("contrastive")).eval()
    beside = SimIPU(config("both")).eval()
    assert beside.load_state_dict(alone.state_dict(), strict=False).unexpected_keys == []
    one, other = alone(make_batch(alone.config)), beside(make_batch(beside.config))
    for name, term in one.terms.items():
        assert torch.equal(term.loss, other.terms[name].loss)


@pytest.mark.parametrize("objective", ["lidar_depth", "both"])
def test_every_parameter_learns(objective: str) -> None:
    torch.manual_seed(0)
    model: SimIPU | LidarDepth
    if objective == "both":
        model = SimIPU(config(objective))
        model(make_batch(model.config)).loss.backward()
    else:
        model = LidarDepth(config(objective))
        views = ScanDepthViews(model.config)
        model(views([pair_row(0), pair_row(1)], generators(2))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    optimizers, _ = pretraining_optimizers(model, model.config, 1)
    held = [parameter for each in optimizers for group in each.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    assert len(held) == len(list(model.parameters()))


def test_the_loss_is_that_of_fine_tuning() -> None:
    """Bounded depth, resized to the label's size, SigLoss; and Abs Rel beside it."""
    model = LidarDepth(config("lidar_depth", max_depth=50.0)).eval()
    batch = ScanDepthViews(model.config)([pair_row(0)], generators(1))
    assert batch.depth is not None
    term = model(batch).terms["lidar_depth"]
    assert model.decoder is not None
    metres = torch.sigmoid(model.decoder(model.maps(batch.images, batch.image_sizes))) * 50
    prediction = torch.nn.functional.interpolate(
        metres, size=batch.depth.shape[-2:], mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(term.loss, sig_loss(prediction, batch.depth, 0.15))
    measured = batch.depth > 0
    errors = [
        abs(p - d) / d for p, d in zip(prediction[measured].tolist(), batch.depth[measured].tolist(), strict=True)
    ]
    assert float(term.scores["abs_rel"]) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_a_batch_without_any_depth_is_no_nan() -> None:
    model = LidarDepth(config("lidar_depth", max_depth=0.5))
    batch = ScanDepthViews(model.config)([pair_row(0), pair_row(1)], generators(2))
    loss = model(batch).loss
    loss.backward()
    assert loss == 0
