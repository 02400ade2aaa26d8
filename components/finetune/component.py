from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finetune(
    section: dict[str, Any],
    depth: dsl.Input[dsl.Dataset],
    encoder: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
) -> None:
    """Fine-tune a pre-trained encoder for monocular depth (:mod:`simipu_core.stages.finetune`).

    Args:
        section: `finetune`.
        depth: image-depth shards.
        encoder: pre-trained weights.
        model: depth net.
    """
    from simipu_core.stages.step import train

    train("finetune", section, depth, model, encoder)


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finetune_from_start(
    section: dict[str, Any],
    depth: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> None:
    """The same without the pre-training step: the encoder begins as `init` in the section says.

    Args:
        section: `finetune`.
        depth: image-depth shards.
        model: depth net.
    """
    from simipu_core.stages.step import train

    train("finetune", section, depth, model)


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def finetune_on_nodes(section: dict[str, Any], depth: str, model: dsl.Output[dsl.Model], encoder: str = "") -> None:
    """The same on several nodes: this step starts a TrainJob and waits for it (:mod:`simipu_core.stages.train_job`).

    It takes addresses, as Kubeflow downloads the artifacts that a step takes.

    Args:
        section: `finetune`.
        depth: address of the image-depth shards.
        model: depth net.
        encoder: address of the pre-trained weights, if there are any.
    """
    from simipu_core.stages.step import train_on_nodes

    train_on_nodes("finetune", section, depth, model, encoder)
