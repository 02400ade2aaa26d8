"""The five-step pipeline: two branches of data that meet at fine-tuning.

::

    ingest → pair → pretrain ─╮
    ingest → pair ────────────┴→ finetune → evaluate

Without pre-training (`finetune.init` other than `pretrained`) there is no upper branch.
"""

from inspect import Parameter, Signature
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
"""Artifacts the pipeline can hand out: the step that makes each, and its type. `metrics` comes on top."""
_PRETRAINING = {"pretrain_catalogue", "pairs", "encoder"}
_SCRATCH = "kaiming_zero_gamma"


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The pipeline parameters that an experiment sets: its fields that some step reads, under their own names."""
    unread = {"preset", "synthetic"}
    if not experiment.finetune.needs_pretraining:
        unread |= {"pretrain_data", "pretrain"}
    given = {name: getattr(experiment, name) for name in Experiment.model_fields if name not in unread}
    return {name: value if isinstance(value, str) else to_parameter(value) for name, value in given.items()}


def outputs(experiment: Experiment) -> dict[str, tuple[str, type[dsl.Artifact]]]:
    """Those of `OUTPUTS` that the experiment's pipeline hands out.

    The scratch control is among them where `finetune.scratch_control` says so and the net itself is not it.
    """
    finetune = experiment.finetune
    left_out = set() if finetune.needs_pretraining else set(_PRETRAINING)
    if not finetune.scratch_control or finetune.init == _SCRATCH:
        left_out.add("control")
    return {name: output for name, output in OUTPUTS.items() if name not in left_out}


def build(experiment: Experiment) -> BaseComponent:
    """The pipeline, with the experiment's sections as its parameters' defaults.

    Its other parameters are the URIs of the raw data, `depth_uri` and, where there is pre-training, `pretrain_uri`.

    Args:
        experiment: what to run.
    """
    handed_out = outputs(experiment)
    types = {name: kind for name, (_, kind) in handed_out.items()} | {"metrics": dsl.Metrics}
    outputs_type = NamedTuple("Outputs", list(types.items()))  # type: ignore[misc]
    uris = ["pretrain_uri", "depth_uri"] if experiment.finetune.needs_pretraining else ["depth_uri"]
    signature = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=str) for name in uris] + [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=type(value))
        for name, value in parameters(experiment).items()
    ]

    def simipu(*values: Any) -> Any:
        """Label-free pre-training on image-scan pairs, then monocular depth."""
        given = dict(zip((parameter.name for parameter in signature), values, strict=True))
        made = {}
        encoder = {}
        if experiment.finetune.needs_pretraining:
            made["pretrain_catalogue"] = _catalogue("pretrain", given["pretrain_uri"], given["pretrain_data"])
            made["pairs"] = _shards("pretrain", "pairs", made["pretrain_catalogue"], given["pair"])
            pretrained = pretrain_step(pairs=made["pairs"], config=given["pretrain"]).set_display_name("pretrain")
            made["encoder"] = encoder["encoder"] = pretrained.outputs["encoder"]
        made["depth_catalogue"] = _catalogue("depth", given["depth_uri"], given["depth_data"])
        made["depth"] = _shards("depth", "depth", made["depth_catalogue"], given["pair"])
        made["model"] = _depth_net("finetune", depth=made["depth"], config=given["finetune"], **encoder)
        control = {}
        if "control" in handed_out:
            control["control"] = _depth_net(
                "finetune_scratch", depth=made["depth"], config=given["finetune"], init=_SCRATCH
            )
        evaluated = evaluate_step(
            experiment=given["experiment"],
            model=made["model"],
            depth=made["depth"],
            config=given["evaluate"],
            tracking=given["tracking"],
            **control,
        ).set_display_name("evaluate")
        return outputs_type(**made, **control, **evaluated.outputs)

    simipu.__signature__ = Signature(signature, return_annotation=outputs_type)  # type: ignore[attr-defined]
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
