from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(pairs: dsl.Input[dsl.Dataset], config: dict[str, Any], encoder: dsl.Output[dsl.Model]) -> None:
    """Pre-train the image encoder without labels.

    Args:
        pairs: image-scan shards.
        config: `pretrain` section.
        encoder: weights.
    """
    from pathlib import Path

    from simipu_core.config import PretrainConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.project import checkpoints
    from simipu_core.stages.pretrain import pretrain
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track("pretrain", out=Path(encoder.path)) as run:
        section = from_parameter(PretrainConfig, config, "pretrain")
        pretrain(Path(pairs.path), section, Path(encoder.path), run=run, checkpoints=checkpoints())
