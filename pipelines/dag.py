"""The pipeline for Kubeflow: one task for each step of :mod:`pipelines.steps`."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.check.component import check
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.ingest.component import ingest
from components.pair.component import pair
from components.pretrain.component import pretrain
from components.table.component import table
from pipelines.cluster import Cluster
from pipelines.form import Field, Rows, Value, as_rows, dials, fields
from pipelines.placement import place
from pipelines.steps import Source, Step, steps
from simipu_core.experiment import Experiment
from simipu_core.parameters import to_parameter

NAME = "simipu"
"""Name of every pipeline: Kubeflow's cache is one for each name, and experiments have steps in common."""
STEP, LAST_STEP = "SIMIPU_STEP", "SIMIPU_LAST_STEP"
"""Environment variables that tell a step its name, and the last one that the run is complete with it. As inputs they
would keep equal steps of different pipelines from sharing their results."""
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
_MADE_BY = {"ingest": "catalogue", "pair": "shards", "pretrain": "encoder", "finetune": "model", "evaluate": "report"}
_COMPONENTS: dict[str, Callable[..., Any]] = {
    "ingest": ingest,
    "pair": pair,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "table": table,
}


def parameters(rows: Rows) -> dict[str, Value]:
    """Values of the pipeline's parameters, addresses of raw data apart."""
    return {field.name: field.default for field in fields(as_rows(rows)) if field.default is not None}


def outputs(experiment: Experiment) -> dict[str, tuple[str, type[dsl.Artifact]]]:
    """Those of `OUTPUTS` that the experiment's pipeline hands out."""
    left_out = set() if experiment.finetune.needs_pretraining else set(_PRETRAINING)
    if not experiment.finetune.needs_control:
        left_out.add("control")
    return {name: output for name, output in OUTPUTS.items() if name not in left_out}


def build(rows: Rows, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment, or of several, which share the steps that they have in common.

    On a cluster a step comes first that checks all settings, as the form may have changed them: a wrong one must not
    show only after days of pre-training. In this machine's runs they have been checked before.

    Args:
        rows: one experiment, or those of a sweep.
        cluster: where the steps run; None for this machine.

    Raises:
        SimipuError: the image is not pinned, or the experiments do not go into one sweep.
    """
    rows = as_rows(rows)
    road = steps(rows)
    form = fields(rows, cluster.data if cluster else None)
    handed_out = _handed_out(rows, {step.name: step for step in road})
    types = {name: kind for name, (_, kind) in handed_out.items()}
    outputs_type = NamedTuple("Outputs", list(types.items()))  # type: ignore[misc]

    def simipu(*values: Any) -> Any:
        given = dict(zip((field.name for field in form), values, strict=True))
        tasks: dict[str, Any] = {}

        def add(component: str, name: str, task: Any) -> None:
            task.set_display_name(name).set_env_variable(STEP, name)
            if name == road[-1].name:
                task.set_env_variable(LAST_STEP, "true")
            if cluster is not None:
                place(task, component, cluster)
            tasks[name] = task

        if cluster is not None:
            add("check", "check", _check(rows, given))
        for step in road:
            task = _COMPONENTS[step.component](**_inputs(step, given, tasks))
            if cluster is not None and not step.artifacts:
                task.after(tasks["check"])
            add(step.component, step.name, task)
        return outputs_type(**{name: _output(tasks, source) for name, (source, _) in handed_out.items()})

    simipu.__doc__ = _doc(form)
    simipu.__signature__ = Signature(  # type: ignore[attr-defined]
        [_argument(field) for field in form], return_annotation=outputs_type
    )
    config = _kept(cluster.keep_finished) if cluster else None
    pipeline: BaseComponent = dsl.pipeline(name=NAME, pipeline_config=config)(simipu)
    return pipeline


def _kept(seconds: int) -> dsl.PipelineConfig:
    """How long the workflow is kept, said of success and of failure too, as the server's own times for these win."""
    return dsl.PipelineConfig(
        ttl_seconds_after_finished=seconds, ttl_seconds_after_success=seconds, ttl_seconds_after_failure=seconds
    )


def _handed_out(rows: Sequence[Experiment], made: Mapping[str, Step]) -> dict[str, tuple[Source, type[dsl.Artifact]]]:
    if len(rows) > 1:
        return {"results": (Source("table", "results"), dsl.Artifact)}
    (row,) = rows
    chosen = {name: (Source(step, _MADE_BY[made[step].component]), kind) for name, (step, kind) in outputs(row).items()}
    return chosen | {"metrics": (Source("evaluate", "metrics"), dsl.Metrics)}


def _check(rows: Sequence[Experiment], given: Mapping[str, Any]) -> Any:
    turned = dials(rows)
    return check(
        rows={row.experiment: to_parameter(row) for row in rows},
        keys={field.name: list(field.keys) for field in turned},
        **{field.name: given[field.name] for field in turned},
    )


def _inputs(step: Step, given: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    from_form = {name: given[parameter] for name, parameter in step.parameters.items()}
    made = {name: _output(tasks, source) for name, source in step.artifacts.items()}
    return {**step.constants, **from_form, **made}


def _output(tasks: Mapping[str, Any], source: Source) -> Any:
    return tasks[source.step].outputs[source.output]


def _argument(field: Field) -> Parameter:
    default = Parameter.empty if field.default is None else field.default
    return Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=field.kind)


def _doc(form: Sequence[Field]) -> str:
    """Docstring from which Kubeflow takes the descriptions in the form."""
    arguments = "\n".join(f"    {field.name}: {field.meaning}" for field in form)
    return f"Label-free pre-training on image-scan pairs, then monocular depth.\n\nArgs:\n{arguments}\n"
