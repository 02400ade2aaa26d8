"""The optimisers and schedules of both stages."""

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from simipu_core.config import FinetuneConfig, PretrainConfig
from simipu_core.models.depth_net import DepthNet
from simipu_core.models.simipu import SimIPU


def pretraining_optimizers(
    model: SimIPU, config: PretrainConfig, steps_per_epoch: int
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """AdamW for the point encoder, SGD for the image side and the point heads (reference section 4)."""
    points, image, heads = config.point_optimizer, config.image_optimizer, config.head_optimizer
    optimizers: list[Optimizer] = [
        AdamW(model.point_encoder.parameters(), points.lr, points.betas, weight_decay=points.weight_decay, fused=True),
        SGD(
            [*model.image_encoder.parameters(), *model.cross_image_head.parameters()],
            image.lr,
            image.momentum,
            weight_decay=image.weight_decay,
            fused=True,
        ),
        SGD(
            [*model.intra_head.parameters(), *model.cross_point_head.parameters()],
            heads.lr,
            heads.momentum,
            weight_decay=heads.weight_decay,
            fused=True,
        ),
    ]
    return optimizers, [StepLR(optimizer, steps_per_epoch, config.lr_decay) for optimizer in optimizers]


def finetuning_optimizer(model: DepthNet, config: FinetuneConfig, steps: int) -> tuple[AdamW, OneCycleLR]:
    """AdamW with the one-cycle schedule, betas not cycled (reference section 5.6)."""
    cycle = config.schedule
    optimizer = AdamW(model.parameters(), cycle.max_lr, config.betas, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer,
        cycle.max_lr,
        total_steps=steps,
        pct_start=cycle.warm_share,
        div_factor=cycle.start_div,
        final_div_factor=cycle.final_div,
        cycle_momentum=False,
    )
    return optimizer, schedule
