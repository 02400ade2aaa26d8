"""How tasks of the pipeline are made: named, placed on the cluster, and none twice."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.finetune.component import finetune_on_nodes
from components.pretrain.component import pretrain_on_nodes
from pipelines.cluster import Cluster, settings_of
from pipelines.placement import place
from pipelines.rows import roots
from simipu_core.config.tracking import PromotionConfig
from simipu_core.experiment import Experiment
from simipu_core.parameters import to_parameter
from simipu_core.stages.configure import sections
from simipu_core.stages.step import LAST_STEP, STEP

NAME = "simipu"
"""Name of every pipeline: Kubeflow's cache is one for each name, and experiments have steps in common."""
OUTPUTS: dict[str, tuple[str, str, type[dsl.Artifact]]] = {
    "pretrain_catalogue": ("ingest_pretrain", "catalogue", dsl.Dataset),
    "pairs": ("pair_pretrain", "shards", dsl.Dataset),
    "encoder": ("pretrain", "encoder", dsl.Model),
    "depth_catalogue": ("ingest_depth", "catalogue", dsl.Dataset),
    "depth": ("pair_depth", "shards", dsl.Dataset),
    "model": ("finetune", "model", dsl.Model),
    "control": ("finetune_scratch", "model", dsl.Model),
    "report": ("evaluate", "report", dsl.Artifact),
    "metrics": ("evaluate", "metrics", dsl.Metrics),
}
"""Artifacts that the pipeline of one experiment hands out: the step, its output, and the type."""
CHOICES: dict[str, tuple[str, ...]] = {"promotion": get_args(PromotionConfig.model_fields["mode"].annotation)}
"""Fields of the form that offer their values instead of taking any text."""


def addresses(cluster: Cluster | None, *rows: Experiment) -> dict[str, str]:
    """Default addresses of the raw frames by root: what the cluster's settings know; `configure` refuses empty ones."""
    known = cluster.data if cluster else {}
    return {root: known.get(root, "") for row in rows for root in roots(row).values()}


def outputs(experiment: Experiment) -> Any:
    """Type of what the pipeline of an experiment hands out."""
    left_out = set() if experiment.finetune.needs_pretraining else {"ingest_pretrain", "pair_pretrain", "pretrain"}
    left_out |= set() if experiment.finetune.needs_control else {"finetune_scratch"}
    kinds = [(name, kind) for name, (step, _, kind) in OUTPUTS.items() if step not in left_out]
    return NamedTuple("Outputs", kinds)


def named(cluster: Cluster | None) -> Callable[[Callable[..., Any]], BaseComponent]:
    """`dsl.pipeline` with our name, the cluster's settings, and the form's choices, which the SDK cannot declare."""
    config = _kept(cluster.keep_finished) if cluster else None

    def made(form: Callable[..., Any]) -> BaseComponent:
        component: BaseComponent = dsl.pipeline(form, name=NAME, pipeline_config=config)
        fields = component.pipeline_spec.root.input_definitions.parameters
        for field in CHOICES.keys() & fields.keys():
            for choice in CHOICES[field]:
                fields[field].literals.add(string_value=choice)
        return component

    return made


def _kept(seconds: int) -> dsl.PipelineConfig:
    """How long the workflow is kept, said of success and of failure too, as the server's own times for these win."""
    return dsl.PipelineConfig(
        ttl_seconds_after_finished=seconds, ttl_seconds_after_success=seconds, ttl_seconds_after_failure=seconds
    )


TaskOutputs = Mapping[str, Any]
"""Outputs of a task."""


class SectionParameter(NamedTuple):
    """The section that `configure` hands a step, as its parameter."""

    value: Any
    """The output of the task."""
    content: Mapping[str, Any]
    """What it holds if the form changes nothing; its changes are alike for all rows, so that equal ones stay equal."""


Sections = Mapping[str, SectionParameter]
_ON_NODES = {"pretrain": pretrain_on_nodes, "finetune": finetune_on_nodes}
"""Components that have several nodes train; they take addresses instead of artifacts."""


class Tasks:
    """Makes the tasks of one experiment: named, placed on the cluster, and none twice.

    Args:
        experiment: the experiment.
        cluster: where they run; None for this machine.
        shared: in a sweep, tasks of all its experiments so far; their names end with the experiment's.
    """

    def __init__(
        self, experiment: Experiment, cluster: Cluster | None, shared: dict[str, TaskOutputs] | None = None
    ) -> None:
        self.made: dict[str, TaskOutputs] = {}
        self._experiment, self._cluster = experiment, cluster
        self._is_sweep = shared is not None
        self._shared = {} if shared is None else shared

    def configured(self, component: Any, **form: Any) -> Sections:
        """The first task, which hands every later one its section."""
        whole = to_parameter(self._experiment)
        del whole["synthetic"]  # no step renders raw frames
        made = self("configure", component, experiment=whole, **form)
        return {name: SectionParameter(made[name], content) for name, content in sections(self._experiment).items()}

    def __call__(
        self, name: str, component: Any, section: SectionParameter | None = None, **inputs: Any
    ) -> TaskOutputs:
        """Make a task, unless there is an equal one.

        Args:
            name: of the step.
            component: what runs.
            section: what `configure` hands it.
            inputs: outputs of other tasks, and constants.

        Returns:
            its outputs.
        """
        settings = settings_of(component.python_func.__name__)
        if self._cluster and self._cluster.step(settings).nodes > 1:
            component, inputs = _ON_NODES[settings], {key: self._address(value) for key, value in inputs.items()}
        key = json.dumps([component.name, section and section.content, inputs], sort_keys=True, default=str)
        if key not in self._shared:
            parameter = {} if section is None else {"section": section.value}
            self._shared[key] = self._make(name, component, parameter | inputs).outputs
        self.made[name] = self._shared[key]
        return self.made[name]

    def _make(self, name: str, component: Any, inputs: Mapping[str, Any]) -> dsl.PipelineTask:
        shown = f"{name}_{self._experiment.experiment}" if self._is_sweep else name
        task = component(**inputs).set_display_name(shown)
        if name != "configure":
            task.set_env_variable(STEP, shown)
        if name in ("evaluate", "table") and not self._is_sweep:
            task.set_env_variable(LAST_STEP, "true")
        if self._cluster:
            place(task, settings_of(component.python_func.__name__), self._cluster)
        return task

    def _address(self, artifact: Any) -> Any:
        """The address of an artifact, from the task that made it."""
        made = next(made for made in self.made.values() if any(output is artifact for output in made.values()))
        return made["address"]

    def pipeline_outputs(self, names: Iterable[str]) -> dict[str, Any]:
        """The outputs of the pipeline that have these names in `OUTPUTS`."""
        places = {name: OUTPUTS[name] for name in names}
        return {name: self.made[step][output] for name, (step, output, _) in places.items()}
