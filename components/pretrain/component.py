from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(section: dict[str, Any], pairs: dsl.Input[dsl.Dataset], encoder: dsl.Output[dsl.Model]) -> None:
    """Pre-train the image encoder without labels (:mod:`simipu_core.stages.pretrain`).

    Args:
        section: `pretrain`.
        pairs: image-scan shards.
        encoder: weights.
    """
    from simipu_core.stages.step import train

    train("pretrain", section, pairs, encoder)
