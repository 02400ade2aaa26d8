"""The pipeline for Kubeflow: what is computed from what.

::

    configure ─▶ a section for every step

    ingest ─▶ pair ─▶ pretrain ─╮
    ingest ─▶ pair ─────────────┴▶ finetune ─▶ evaluate

:func:`steps` is all of it for one experiment; the pipelines below add the form that people fill in. The experiment
decides the shape when it is compiled: without pre-training (`finetune.init` other than `pretrained`) there is no upper
branch, and `finetune.scratch_control` adds a control. In a sweep every experiment has these steps, those that two of
them have in common exist once, and a table comes last.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.configure.component import configure
from components.evaluate.component import evaluate, evaluate_with_control
from components.finetune.component import finetune, finetune_from_start, finetune_on_nodes
from components.ingest.component import ingest
from components.pair.component import pair
from components.pretrain.component import pretrain, pretrain_on_nodes
from components.table.component import table
from pipelines.cluster import Cluster, settings_of
from pipelines.placement import place
from pipelines.rows import Rows, as_rows, roots
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment
from simipu_core.parameters import to_parameter
from simipu_core.stages.configure import sections
from simipu_core.stages.step import LAST_STEP, STEP

NAME = "simipu"
"""Name of every pipeline: Kubeflow's cache is one for each name, and experiments have steps in common."""
MOST_ROWS = 16
"""Experiments of a sweep; the object that Kubeflow keeps of a larger one would not fit its store."""
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


def steps(experiment: Experiment, made: "Sections", task: "Tasks") -> None:
    """The steps of one experiment.

    Args:
        experiment: decides which steps there are.
        made: what `configure` hands each of them.
        task: makes one, by its name, component, section and inputs, and gives its outputs.
    """
    frames = task("ingest_depth", ingest, made["ingest_depth"])
    depth = task("pair_depth", pair, made["pair"], catalogue=frames["catalogue"], target="depth")["shards"]

    if experiment.finetune.needs_pretraining:
        frames = task("ingest_pretrain", ingest, made["ingest_pretrain"])
        pairs = task("pair_pretrain", pair, made["pair"], catalogue=frames["catalogue"], target="pairs")["shards"]
        encoder = task("pretrain", pretrain, made["pretrain"], pairs=pairs)["encoder"]
        model = task("finetune", finetune, made["finetune"], depth=depth, encoder=encoder)["model"]
    else:
        model = task("finetune", finetune_from_start, made["finetune"], depth=depth)["model"]

    if experiment.finetune.needs_control:
        control = task("finetune_scratch", finetune_from_start, made["finetune_scratch"], depth=depth)["model"]
        task("evaluate", evaluate_with_control, made["evaluate"], model=model, control=control, depth=depth)
    else:
        task("evaluate", evaluate, made["evaluate"], model=model, depth=depth)


def pipeline(rows: Rows, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment, or of several, which share the steps that they have in common.

    Args:
        rows: one experiment, or those of a sweep.
        cluster: where the steps run; None for this machine.

    Raises:
        SimipuError: the image is not pinned, or two rows have one name, or there are too many.
    """
    rows = as_rows(rows)
    if len(rows) > 1:
        return sweep(rows, cluster)
    (row,) = rows
    return with_pretraining(row, cluster) if row.finetune.needs_pretraining else without_pretraining(row, cluster)


def with_pretraining(experiment: Experiment, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment that pre-trains."""
    known, Outputs = addresses(cluster, experiment), outputs(experiment)  # noqa: N806 (a type)

    @decorated(cluster)
    def simipu(
        data_depth: str = known[experiment.depth_data.root],
        data_pretrain: str = known[experiment.pretrain_data.root],
        model_name: str = experiment.tracking.model_name,
        promotion: str = experiment.tracking.promotion.mode,
        result_name: str = experiment.experiment,
        settings: str = "",
    ) -> Outputs:  # type: ignore[valid-type]
        """Label-free pre-training on image-scan pairs, then monocular depth.

        Args:
            data_depth: Address of the raw frames for fine-tuning and evaluation, of one fixed version.
            data_pretrain: Address of the raw frames for pre-training, of one fixed version.
            model_name: Registered model in MLflow that gets a new version from this run.
            promotion: What follows from the comparison with the champion: report, promote or off.
            result_name: Name of this run's results in tables, MLflow and the registry.
            settings: Changes to any other setting, such as finetune.epochs=20 seed=1.
        """
        task = Tasks(cluster)
        made = task.configure(
            experiment,
            data_depth=data_depth,
            data_pretrain=data_pretrain,
            model_name=model_name,
            promotion=promotion,
            result_name=result_name,
            settings=settings,
        )
        steps(experiment, made, task)
        return Outputs(**task.handed_out(Outputs._fields))  # type: ignore[no-any-return]

    return simipu


def without_pretraining(experiment: Experiment, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment whose encoder starts otherwise."""
    known, Outputs = addresses(cluster, experiment), outputs(experiment)  # noqa: N806 (a type)

    @decorated(cluster)
    def simipu(
        data_depth: str = known[experiment.depth_data.root],
        model_name: str = experiment.tracking.model_name,
        promotion: str = experiment.tracking.promotion.mode,
        result_name: str = experiment.experiment,
        settings: str = "",
    ) -> Outputs:  # type: ignore[valid-type]
        """Monocular depth, without pre-training.

        Args:
            data_depth: Address of the raw frames for fine-tuning and evaluation, of one fixed version.
            model_name: Registered model in MLflow that gets a new version from this run.
            promotion: What follows from the comparison with the champion: report, promote or off.
            result_name: Name of this run's results in tables, MLflow and the registry.
            settings: Changes to any other setting, such as finetune.epochs=20 seed=1.
        """
        task = Tasks(cluster)
        made = task.configure(
            experiment,
            data_depth=data_depth,
            model_name=model_name,
            promotion=promotion,
            result_name=result_name,
            settings=settings,
        )
        steps(experiment, made, task)
        return Outputs(**task.handed_out(Outputs._fields))  # type: ignore[no-any-return]

    return simipu


def sweep(rows: Sequence[Experiment], cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of several experiments."""
    names = [row.experiment for row in rows]
    if len(set(names)) < len(names) or len(names) > MOST_ROWS:
        raise SimipuError(f"sweep {', '.join(names)}: take up to {MOST_ROWS} experiments of different names.")
    known = addresses(cluster, *rows)

    class Outputs(NamedTuple):
        results: dsl.Artifact

    @decorated(cluster)
    def simipu(
        data: dict[str, Any] = known,
        settings: str = "",
    ) -> Outputs:
        """Several experiments side by side.

        Args:
            data: Address of the raw frames, of one fixed version, for each folder that the experiments name.
            settings: Changes to any setting, of all experiments alike, such as finetune.epochs=20 seed=1.
        """
        shared: dict[str, Outgoing] = {}
        scores = []
        for row in rows:
            task = Tasks(cluster, shared, suffix=f"_{row.experiment}")
            steps(row, task.configure(row, data=data, settings=settings), task)
            scores.append(task.made["evaluate"]["scores"])
        task = Tasks(cluster)
        task("table", table, names=names, scores=scores)
        return Outputs(results=task.made["table"]["results"])

    return simipu


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


def decorated(cluster: Cluster | None) -> Callable[[Callable[..., Any]], BaseComponent]:
    """`dsl.pipeline` with our name and the cluster's settings."""
    config = _kept(cluster.keep_finished) if cluster else None
    made: Callable[[Callable[..., Any]], BaseComponent] = dsl.pipeline(name=NAME, pipeline_config=config)
    return made


def _kept(seconds: int) -> dsl.PipelineConfig:
    """How long the workflow is kept, said of success and of failure too, as the server's own times for these win."""
    return dsl.PipelineConfig(
        ttl_seconds_after_finished=seconds, ttl_seconds_after_success=seconds, ttl_seconds_after_failure=seconds
    )


Outgoing = Mapping[str, Any]
"""Outputs of a task."""


class Section(NamedTuple):
    """What `configure` hands a step."""

    handed: Any
    """The output of the task."""
    content: Mapping[str, Any]
    """What it holds if the form changes nothing; its changes are alike for all rows, so that equal ones stay equal."""


Sections = Mapping[str, Section]
_ON_NODES = {"pretrain": pretrain_on_nodes, "finetune": finetune_on_nodes}
"""Components that have several nodes train."""


class Tasks:
    """Makes the tasks of one experiment: named, placed on the cluster, and none twice.

    Args:
        cluster: where they run; None for this machine.
        shared: in a sweep, tasks of all its experiments so far, by component, section and inputs.
        suffix: of their names in a sweep.
    """

    def __init__(self, cluster: Cluster | None, shared: dict[str, Outgoing] | None = None, suffix: str = "") -> None:
        self.made: dict[str, Outgoing] = {}
        self._cluster, self._suffix = cluster, suffix
        self._shared = {} if shared is None else shared

    def configure(self, experiment: Experiment, **form: Any) -> Sections:
        """The first task, which hands every later one its section."""
        whole = to_parameter(experiment)
        del whole["synthetic"]  # no step renders raw frames
        made = self("configure", configure, experiment=whole, **form)
        return {name: Section(made[name], content) for name, content in sections(experiment).items()}

    def __call__(self, name: str, component: Any, section: Section | None = None, **inputs: Any) -> Outgoing:
        settings = settings_of(component.python_func.__name__)
        if self._cluster and self._cluster.step(settings).nodes > 1:
            component, inputs = _ON_NODES[settings], {key: self._address(value) for key, value in inputs.items()}
        key = json.dumps([component.name, section and section.content, inputs], sort_keys=True, default=str)
        if key not in self._shared:
            given = inputs if section is None else {"section": section.handed, **inputs}
            task = component(**given).set_display_name(name + self._suffix)
            if section or name == "table":  # those that are tracked
                task.set_env_variable(STEP, name + self._suffix)
            if name in ("evaluate", "table") and not self._suffix:
                task.set_env_variable(LAST_STEP, "true")
            if self._cluster:
                place(task, settings, self._cluster)
            self._shared[key] = task.outputs
        self.made[name] = self._shared[key]
        return self.made[name]

    def _address(self, artifact: Any) -> Any:
        """The address of an artifact, from the task that made it."""
        made = next(made for made in self.made.values() if any(output is artifact for output in made.values()))
        return made["address"]

    def handed_out(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of `OUTPUTS` that have these names."""
        places = {name: OUTPUTS[name] for name in names}
        return {name: self.made[step][output] for name, (step, output, _) in places.items()}
