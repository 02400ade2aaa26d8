from typing import Any, NamedTuple, Optional

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def configure(
    experiment: dict[str, Any],
    settings: str = "",
    data: Optional[dict[str, Any]] = None,  # noqa: UP045 (kfp reads no `|`)
    data_depth: str = "",
    data_pretrain: str = "",
    model_name: str = "",
    promotion: str = "",
    result_name: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Sections",
    [
        ("ingest_pretrain", dict),
        ("ingest_depth", dict),
        ("pair", dict),
        ("pretrain", dict),
        ("finetune", dict),
        ("finetune_scratch", dict),
        ("evaluate", dict),
    ],
):
    """Check all settings together before any work starts, and hand each step its section.

    Args:
        experiment: the whole experiment.
        settings: changes on top, `finetune.epochs=20 seed=1`.
        data: in a sweep: addresses of the raw frames, by their root.
        data_depth: address of the raw frames for fine-tuning and evaluation.
        data_pretrain: address of the raw frames for pre-training.
        model_name: registered model.
        promotion: what follows from the comparison with the champion.
        result_name: name of the results.
    """
    from simipu_core.errors import plain_errors
    from simipu_core.stages.configure import configure

    with plain_errors():
        made = configure(
            experiment,
            {"depth_data": data_depth, "pretrain_data": data_pretrain} if data is None else data,
            settings=settings,
            form={"model_name": model_name, "promotion": promotion, "result_name": result_name},
        )
        print(f"{made['evaluate']['experiment']}: settings are in order")
        return tuple(made.values())
