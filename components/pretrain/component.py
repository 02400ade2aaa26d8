from typing import Any, NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain(
    section: dict[str, Any],
    pairs: dsl.Input[dsl.Dataset],
    encoder: dsl.Output[dsl.Model],
) -> NamedTuple("Address", [("address", str)]):  # type: ignore[valid-type]
    """Pre-train the image encoder without labels (:mod:`simipu_core.stages.pretrain`).

    Args:
        section: `pretrain`.
        pairs: image-scan shards.
        encoder: weights.

    Returns:
        Their address, for a step that only hands it on.
    """
    from simipu_core.stages.step import train

    train("pretrain", section, pairs, encoder)
    return (encoder.uri,)


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pretrain_on_nodes(
    section: dict[str, Any],
    pairs: str,
    encoder: dsl.Output[dsl.Model],
) -> NamedTuple("Address", [("address", str)]):  # type: ignore[valid-type]
    """The same on several nodes: this step starts a TrainJob and waits for it (:mod:`simipu_core.stages.train_job`).

    It takes addresses, as Kubeflow downloads the artifacts that a step takes.

    Args:
        section: `pretrain`.
        pairs: address of the image-scan shards.
        encoder: weights.

    Returns:
        Their address, for a step that only hands it on.
    """
    from simipu_core.stages.step import train_on_nodes

    train_on_nodes("pretrain", section, pairs, encoder)
    return (encoder.uri,)
