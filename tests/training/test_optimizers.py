import pytest
import torch

from simipu_core.config import DepthAugmentConfig, FinetuneConfig
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.simipu import SimIPU
from simipu_core.training.optimizers import finetuning_optimizer, pretraining_optimizers
from tests.samples import tiny_pretrain


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (34_728, {0: 4e-6, 1000: 6.1662e-6, 10_418: 1e-4, 20_000: 6.6330e-5, 34_727: 4e-8}),
        (36_336, {0: 4e-6, 1000: 5.9800e-6, 10_900: 1e-4, 20_000: 7.1615e-5, 36_335: 4e-8}),
    ],
)
def test_published_learning_rates(steps: int, expected: dict[int, float]) -> None:
    """docs/method.md, "Fine-tuning schedule"."""
    config = FinetuneConfig(
        encoder_name="resnet18",
        init="kaiming_zero_gamma",
        decoder_channels=(8, 8, 8, 8),
        augment=DepthAugmentConfig(fixed_crop="none"),
    )
    optimizer, schedule = finetuning_optimizer(build_depth_net(config, None), config, steps)
    seen = {}
    for step in range(steps):
        if step in expected:
            seen[step] = optimizer.param_groups[0]["lr"]
        if step < steps - 1:
            schedule.step()
    assert seen == pytest.approx(expected, rel=1e-4)
    group = optimizer.param_groups[0]
    assert (tuple(group["betas"]), group["weight_decay"], group["eps"]) == ((0.95, 0.99), 0.01, 1e-8)


def test_every_trained_parameter_has_one_optimizer_and_all_decay_per_epoch() -> None:
    model = SimIPU(tiny_pretrain())
    config = tiny_pretrain()
    optimizers, schedules = pretraining_optimizers(model, config, steps_per_epoch=3)
    owned = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert isinstance(optimizers[0], torch.optim.AdamW)
    sides = [*model.image_encoder.parameters(), *model.cross_image_head.parameters()]
    image = {id(p) for p in sides if p.requires_grad}
    assert {id(p) for p in optimizers[1].param_groups[0]["params"]} == image
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        start = optimizer.param_groups[0]["lr"]
        for _ in range(7):
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(start * 0.99**2)
