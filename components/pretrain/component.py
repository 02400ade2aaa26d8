from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(
    pairs: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    epochs: int,
    lr: float,
    seed: int,
    encoder: dsl.Output[dsl.Model],
) -> None:
    """Pre-train the image encoder without labels.

    Args:
        pairs: image-scan shards.
        config: `pretrain` section, without what follows.
        epochs: passes over the pairs.
        lr: learning rate of the image encoder.
        seed: of initial weights, order and augmentation.
        encoder: weights.
    """
    import os
    from pathlib import Path

    from simipu_core.config import PretrainConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.project import checkpoints
    from simipu_core.stages import train_job
    from simipu_core.stages.launch import launch
    from simipu_core.stages.pretrain import pretrain
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track(os.environ.get("SIMIPU_STEP", "pretrain"), out=Path(encoder.path)) as run:
        changes = {"epochs": epochs, "image_optimizer.lr": lr, "seed": seed}
        section = from_parameter(PretrainConfig, config, "pretrain", changes)
        if job := train_job.requested():
            train_job.train(job, "pretrain", section, pairs.uri, Path(encoder.path), run=run)
        else:
            launch(pretrain, Path(pairs.path), section, Path(encoder.path), run=run, checkpoints=checkpoints())
