from typing import Any, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finetune(
    step: str,
    depth: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    model: dsl.Output[dsl.Model],
    encoder: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 (kfp reads no `|`)
    init: str = "",
) -> None:
    """Fine-tune for monocular depth.

    Args:
        step: name of this step.
        depth: image-depth shards.
        config: `finetune` section.
        model: depth net.
        encoder: pre-trained weights, where `init` is `pretrained`.
        init: `finetune.init`, instead of the section's own: the control is the same net from another start.
    """
    from pathlib import Path

    from simipu_core.config import FinetuneConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.project import checkpoints
    from simipu_core.stages.finetune import finetune
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track(step, out=Path(model.path)) as run:
        section = from_parameter(FinetuneConfig, config, "finetune")
        finetune(
            Path(depth.path),
            section.model_copy(update={"init": init, "init_file": None}) if init else section,
            Path(model.path),
            encoder=Path(encoder.path) if encoder else None,
            run=run,
            checkpoints=checkpoints(),
        )
