from typing import Any, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def check(
    rows: dict[str, Any],
    keys: dict[str, list[str]],
    model_name: Optional[str] = None,  # noqa: UP045 (kfp reads no `|`)
    promotion: Optional[str] = None,  # noqa: UP045
    pretrain_epochs: Optional[int] = None,  # noqa: UP045
    pretrain_lr: Optional[float] = None,  # noqa: UP045
    finetune_epochs: Optional[int] = None,  # noqa: UP045
    finetune_max_lr: Optional[float] = None,  # noqa: UP045
    finetune_max_frames: Optional[int] = None,  # noqa: UP045
    seed: Optional[int] = None,  # noqa: UP045
) -> None:
    """Check all settings together before any work starts, those from the form included.

    Args:
        rows: whole experiments, by name.
        keys: settings that each of the following stands for.
        model_name: registered model.
        promotion: what follows from the comparison with the champion.
        pretrain_epochs: passes over the pairs.
        pretrain_lr: learning rate of the image encoder.
        finetune_epochs: passes over the depth frames.
        finetune_max_lr: peak learning rate.
        finetune_max_frames: training frames that are used; 0 uses all.
        seed: of initial weights, order and augmentation.
    """
    from simipu_core.errors import plain_errors
    from simipu_core.experiment import Experiment
    from simipu_core.parameters import from_parameter

    given = {
        "model_name": model_name,
        "promotion": promotion,
        "pretrain_epochs": pretrain_epochs,
        "pretrain_lr": pretrain_lr,
        "finetune_epochs": finetune_epochs,
        "finetune_max_lr": finetune_max_lr,
        "finetune_max_frames": finetune_max_frames or None,
        "seed": seed,
    }
    changes = {key: given[name] for name, places in keys.items() for key in places}
    with plain_errors():
        for name, row in rows.items():
            from_parameter(Experiment, row, name, changes)
            print(f"{name}: settings are in order")
