from typing import Any, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finetune(
    depth: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    epochs: int,
    max_lr: float,
    max_frames: int,
    seed: int,
    model: dsl.Output[dsl.Model],
    encoder: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 (kfp reads no `|`)
    init: str = "",
) -> None:
    """Fine-tune for monocular depth.

    Args:
        depth: image-depth shards.
        config: `finetune` section, without what follows.
        epochs: passes over the frames.
        max_lr: peak learning rate.
        max_frames: training frames that are used; 0 uses all.
        seed: of initial weights, order and augmentation.
        model: depth net.
        encoder: pre-trained weights, where `init` is `pretrained`.
        init: `finetune.init`, instead of the section's own: the control is the same net from another start.
    """
    import os
    from pathlib import Path

    from simipu_core.config import FinetuneConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.project import checkpoints
    from simipu_core.stages import train_job
    from simipu_core.stages.finetune import finetune
    from simipu_core.stages.launch import launch
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track(os.environ.get("SIMIPU_STEP", "finetune"), out=Path(model.path)) as run:
        changes: dict[str, Any] = {
            "epochs": epochs,
            "schedule.max_lr": max_lr,
            "max_frames": max_frames or None,
            "seed": seed,
        }
        changes |= {"init": init, "init_file": None} if init else {}
        section = from_parameter(FinetuneConfig, config, "finetune", changes)
        if job := train_job.requested():
            start = encoder.uri if encoder else None
            train_job.train(job, "finetune", section, depth.uri, Path(model.path), run=run, encoder=start)
        else:
            launch(
                finetune,
                Path(depth.path),
                section,
                Path(model.path),
                encoder=Path(encoder.path) if encoder else None,
                run=run,
                checkpoints=checkpoints(),
            )
