"""The optimisers and schedules of both stages."""

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from simipu_core.config import AdamWConfig, FinetuneConfig, PretrainConfig, SGDConfig
from simipu_core.models.depth_net import DepthNet
from simipu_core.models.image_branch import ImageBranch
from simipu_core.models.simipu import SimIPU


def pretraining_optimizers(
    model: ImageBranch, config: PretrainConfig, steps_per_epoch: int
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """One optimiser for the image side and, with contrast, one each for the point encoder and the point heads.

    See docs/method.md, "Pre-training schedule".
    """
    image_side: list[nn.Module] = [model.image_encoder, *([model.decoder] if model.decoder else [])]
    if isinstance(model, SimIPU):
        optimizers = [
            _optimizer([model.point_encoder], config.point_optimizer),
            _optimizer([*image_side, model.cross_image_head], config.image_optimizer),
            _optimizer([model.intra_head, model.cross_point_head], config.head_optimizer),
        ]
    else:
        optimizers = [_optimizer(image_side, config.image_optimizer)]
    return optimizers, [StepLR(optimizer, steps_per_epoch, config.lr_decay) for optimizer in optimizers]


def _optimizer(modules: Sequence[nn.Module], config: AdamWConfig | SGDConfig) -> Optimizer:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.kind == "adamw":
        return AdamW(parameters, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)
    return SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay, fused=True)


def finetuning_optimizer(model: DepthNet, config: FinetuneConfig, steps: int) -> tuple[AdamW, OneCycleLR]:
    """AdamW with the one-cycle schedule, betas not cycled (docs/method.md, "Fine-tuning schedule")."""
    cycle = config.schedule
    parts, rates = [model.parameters()], [cycle.max_lr]
    if config.encoder_lr_scale != 1:
        parts = [model.encoder.parameters(), model.decoder.parameters()]
        rates = [cycle.max_lr * config.encoder_lr_scale, cycle.max_lr]
    groups = [{"params": list(part)} for part in parts]
    optimizer = AdamW(groups, cycle.max_lr, config.betas, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer,
        rates,
        total_steps=steps,
        pct_start=cycle.warm_share,
        div_factor=cycle.start_div,
        final_div_factor=cycle.final_div,
        cycle_momentum=False,
    )
    return optimizer, schedule
