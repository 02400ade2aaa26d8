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

from collections.abc import Sequence
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.configure.component import configure
from components.evaluate.component import evaluate, evaluate_with_control
from components.finetune.component import finetune, finetune_from_start
from components.ingest.component import ingest
from components.pair.component import pair
from components.pretrain.component import pretrain
from components.table.component import table
from pipelines.cluster import Cluster
from pipelines.rows import Rows, as_rows
from pipelines.tasks import Sections, TaskOutputs, Tasks, addresses, named, outputs
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

MOST_ROWS = 16
"""Experiments of a sweep."""
MOST_STEPS = 52
"""Steps of a sweep on Kubeflow, which keeps a megabyte of a run, compressed: a workflow of more would break off."""


def steps(experiment: Experiment, made: Sections, task: Tasks) -> None:
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
        SimipuError: the image is not pinned, or two rows have one name or steps of one name, or there are too many.
    """
    rows = as_rows(rows)
    if len(rows) > 1:
        return sweep(rows, cluster)
    (row,) = rows
    return with_pretraining(row, cluster) if row.finetune.needs_pretraining else without_pretraining(row, cluster)


def with_pretraining(experiment: Experiment, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment that pre-trains."""
    known, Outputs = addresses(cluster, experiment), outputs(experiment)  # noqa: N806 (a type)

    @named(cluster)
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
        task = Tasks(experiment, cluster)
        form = {"model_name": model_name, "promotion": promotion, "result_name": result_name, "settings": settings}
        steps(experiment, task.configured(configure, data_depth=data_depth, data_pretrain=data_pretrain, **form), task)
        return Outputs(**task.pipeline_outputs(Outputs._fields))  # type: ignore[no-any-return]

    return simipu


def without_pretraining(experiment: Experiment, cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of one experiment whose encoder starts otherwise."""
    known, Outputs = addresses(cluster, experiment), outputs(experiment)  # noqa: N806 (a type)

    @named(cluster)
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
        task = Tasks(experiment, cluster)
        form = {"model_name": model_name, "promotion": promotion, "result_name": result_name, "settings": settings}
        steps(experiment, task.configured(configure, data_depth=data_depth, **form), task)
        return Outputs(**task.pipeline_outputs(Outputs._fields))  # type: ignore[no-any-return]

    return simipu


def sweep(rows: Sequence[Experiment], cluster: Cluster | None = None) -> BaseComponent:
    """The pipeline of several experiments."""
    names = [row.experiment for row in rows]
    if len(set(names)) < len(names) or len(names) > MOST_ROWS:
        raise SimipuError(f"sweep {', '.join(names)}: take up to {MOST_ROWS} experiments of different names.")
    if alike := [row.experiment for row in rows if row.finetune.needs_control and f"scratch_{row.experiment}" in names]:
        raise SimipuError(
            f"sweep: a step of the control of {alike[0]} would be called like one of scratch_{alike[0]}; rename one of "
            "the two experiments."
        )
    known = addresses(cluster, *rows)

    class Outputs(NamedTuple):
        results: dsl.Artifact

    @named(cluster)
    def simipu(
        data: dict[str, Any] = known,
        settings: str = "",
    ) -> Outputs:
        """Several experiments side by side.

        Args:
            data: Address of the raw frames, of one fixed version, for each folder that the experiments name.
            settings: Changes to any setting, of all experiments alike, such as finetune.epochs=20 seed=1.
        """
        shared: dict[str, TaskOutputs] = {}
        scores = []
        for row in rows:
            task = Tasks(row, cluster, shared)
            steps(row, task.configured(configure, data=data, settings=settings), task)
            scores.append(task.made["evaluate"]["scores"])
        if cluster and len(shared) >= MOST_STEPS:
            raise SimipuError(
                f"sweep {', '.join(names)}: has {len(shared) + 1} steps, and Kubeflow keeps {MOST_STEPS} of a run; "
                "take fewer experiments, or such as have more in common."
            )
        made = Tasks(rows[0], cluster)("table", table, names=names, scores=scores)
        return Outputs(results=made["results"])

    return simipu
