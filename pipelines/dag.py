"""The five-step pipeline: two branches of data that meet at fine-tuning.

::

    ingest → pair → pretrain ─╮
    ingest → pair ────────────┴→ finetune → evaluate
"""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.evaluate.component import evaluate as evaluate_step
from components.finetune.component import finetune as finetune_step
from components.ingest.component import ingest as ingest_step
from components.pair.component import pair as pair_step
from components.pretrain.component import pretrain as pretrain_step
from simipu_core.config import Experiment
from simipu_core.parameters import to_parameter

OUTPUTS: dict[str, tuple[str, type[dsl.Artifact]]] = {
    "pretrain_catalogue": ("ingest_pretrain", dsl.Dataset),
    "pairs": ("pair_pretrain", dsl.Dataset),
    "encoder": ("pretrain", dsl.Model),
    "depth_catalogue": ("ingest_depth", dsl.Dataset),
    "depth": ("pair_depth", dsl.Dataset),
    "model": ("finetune", dsl.Model),
    "control": ("finetune_scratch", dsl.Model),
    "report": ("evaluate", dsl.Artifact),
}
"""Artifacts the pipeline hands out: the step that makes each, and its type. `metrics` comes on top."""


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The pipeline parameters that an experiment sets; their names are its fields' names."""
    given = {name: getattr(experiment, name) for name in Experiment.model_fields if name != "synthetic"}
    return {name: value if isinstance(value, str) else to_parameter(value) for name, value in given.items()}


def build(experiment: Experiment) -> BaseComponent:
    """The pipeline, with the experiment's sections as its parameters' defaults.

    The scratch control is part of it where `finetune.scratch_control` says so.

    Args:
        experiment: what to run.
    """
    default = parameters(experiment)
    outputs = {name: kind for name, (_, kind) in OUTPUTS.items()} | {"metrics": dsl.Metrics}
    if not experiment.finetune.scratch_control:
        del outputs["control"]
    outputs_type = NamedTuple("Outputs", list(outputs.items()))  # type: ignore[misc]

    def simipu(
        pretrain_uri: str,
        depth_uri: str,
        experiment: str = default["experiment"],
        pretrain_data: dict[str, Any] = default["pretrain_data"],
        depth_data: dict[str, Any] = default["depth_data"],
        pair: dict[str, Any] = default["pair"],
        pretrain: dict[str, Any] = default["pretrain"],
        finetune: dict[str, Any] = default["finetune"],
        evaluate: dict[str, Any] = default["evaluate"],
        tracking: dict[str, Any] = default["tracking"],
    ) -> Any:
        """Label-free pre-training on image-scan pairs, then monocular depth."""
        made = {}
        made["pretrain_catalogue"] = _catalogue("pretrain", pretrain_uri, pretrain_data)
        made["pairs"] = _shards("pretrain", "pairs", made["pretrain_catalogue"], pair)
        made["encoder"] = (
            pretrain_step(pairs=made["pairs"], config=pretrain).set_display_name("pretrain").outputs["encoder"]
        )
        made["depth_catalogue"] = _catalogue("depth", depth_uri, depth_data)
        made["depth"] = _shards("depth", "depth", made["depth_catalogue"], pair)
        made["model"] = _depth_net("finetune", depth=made["depth"], config=finetune, encoder=made["encoder"])
        control = {}
        if "control" in outputs:
            control["control"] = _depth_net("finetune_scratch", depth=made["depth"], config=finetune)
        evaluated = evaluate_step(
            experiment=experiment,
            model=made["model"],
            depth=made["depth"],
            config=evaluate,
            tracking=tracking,
            **control,
        ).set_display_name("evaluate")
        return outputs_type(**made, **control, **evaluated.outputs)

    simipu.__annotations__["return"] = outputs_type
    pipeline: BaseComponent = dsl.pipeline(name="simipu")(simipu)
    return pipeline


def _catalogue(branch: str, uri: Any, source: Any) -> Any:
    step = f"ingest_{branch}"
    return ingest_step(step=step, uri=uri, source=source).set_display_name(step).outputs["catalogue"]


def _shards(branch: str, target: str, catalogue: Any, config: Any) -> Any:
    step = f"pair_{branch}"
    task = pair_step(step=step, target=target, catalogue=catalogue, config=config)
    return task.set_display_name(step).outputs["shards"]


def _depth_net(step: str, **inputs: Any) -> Any:
    return finetune_step(step=step, **inputs).set_display_name(step).outputs["model"]
