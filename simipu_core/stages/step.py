"""A stage as a step of the pipeline: what several components do in the same way."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from simipu_core.errors import plain_errors

if TYPE_CHECKING:
    from simipu_core.tracking.mlflow_run import MlflowRun

STEP, LAST_STEP = "SIMIPU_STEP", "SIMIPU_LAST_STEP"
"""Environment variables that tell a step its name, and the last one that the run is complete with it. As inputs they
would keep equal steps of different pipelines from sharing their results."""


class Place(Protocol):
    """An artifact of Kubeflow's."""

    metadata: dict[str, Any]
    """What Kubeflow's pages say about it."""

    @property
    def path(self) -> str:
        """Where it lies in the step's pod."""

    @property
    def uri(self) -> str:
        """Where every pod finds it."""


class Metrics(Place, Protocol):
    """Numbers that Kubeflow shows."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show a number."""


@contextmanager
def step(name: str, out: Place) -> Iterator["MlflowRun"]:
    """Track a step, which a user's problem ends with one line.

    Args:
        name: of the step, unless the pipeline gives it another.
        out: what it makes.
    """
    from simipu_core.tracking.mlflow_run import step as tracked

    is_last = os.environ.get(LAST_STEP) == "true"
    with plain_errors(), tracked(os.environ.get(STEP, name), out=Path(out.path), is_last=is_last) as run:
        yield run
        out.metadata |= described(Path(out.path), run.page)


def described(artifact: Path, page: str) -> dict[str, Any]:
    """What Kubeflow's pages say about an artifact: its digest and counts, those it was made from, its MLflow run.

    Args:
        artifact: its folder.
        page: address of the run that made it.
    """
    from simipu_core.artifacts import read_manifest

    manifest = read_manifest(artifact)
    parents = {f"made from {role}": digest for role, digest in manifest.inputs.items()}
    origin = {"raw data": manifest.origin} if manifest.origin else {}
    about = {"kind": manifest.kind, "digest": manifest.digest, "code revision": manifest.code_revision}
    return {**manifest.counts, **about, **parents, **origin, "MLflow": page}


def train(
    stage: Literal["pretrain", "finetune"],
    section: Mapping[str, Any],
    shards: Place,
    out: Place,
    encoder: Place | None = None,
) -> None:
    """Train in this pod.

    Args:
        stage: which one.
        section: its section.
        shards: what it reads.
        out: what it makes.
        encoder: pre-trained weights to fine-tune.
    """
    from simipu_core import project
    from simipu_core.config import FinetuneConfig, PretrainConfig
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.launch import launch

    with step(stage, out) as run:
        config = from_parameter(PretrainConfig if stage == "pretrain" else FinetuneConfig, section, stage)
        if stage == "pretrain":
            from simipu_core.stages.pretrain import pretrain

            launch(pretrain, Path(shards.path), config, Path(out.path), run=run, checkpoints=project.checkpoints())
        else:
            from simipu_core.stages.finetune import finetune

            launch(
                finetune,
                Path(shards.path),
                config,
                Path(out.path),
                encoder=Path(encoder.path) if encoder else None,
                run=run,
                checkpoints=project.checkpoints(),
            )


def train_on_nodes(
    stage: Literal["pretrain", "finetune"], section: Mapping[str, Any], shards: str, out: Place, encoder: str = ""
) -> None:
    """Have the nodes of a TrainJob train. Nothing here takes the memory of PyTorch.

    Args:
        stage: which one.
        section: its section.
        shards: address of what they read.
        out: what they make.
        encoder: address of pre-trained weights to fine-tune.
    """
    from simipu_core.config import FinetuneConfig, PretrainConfig
    from simipu_core.parameters import from_parameter
    from simipu_core.stages import train_job

    with step(stage, out) as run:
        config = from_parameter(PretrainConfig if stage == "pretrain" else FinetuneConfig, section, stage)
        train_job.train(train_job.requested(), stage, config, shards, Path(out.path), run=run, encoder=encoder or None)


def score(
    section: Mapping[str, Any],
    model: Place,
    depth: Place,
    report: Place,
    metrics: Metrics,
    page: Place,
    table: Place,
    control: Place | None = None,
) -> str:
    """Score a depth net and the champion, register it, promote it if it passes, and write what Kubeflow shows.

    Args:
        section: `experiment`, `evaluate` and `tracking` (:func:`simipu_core.stages.configure.sections`).
        model: depth net.
        depth: image-depth shards.
        report: what it makes.
        metrics: headline numbers, registered version and decision.
        page: the report as a page with its pictures.
        table: all scores.
        control: depth net trained from PyTorch's default weights, scored beside the model.

    Returns:
        The scores as a parameter, see :func:`simipu_core.stages.table.to_text`.
    """
    import json

    from simipu_core.artifacts import read_manifest
    from simipu_core.config import EvaluateConfig, TrackingConfig
    from simipu_core.evaluation.pages import html, markdown
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.release import release
    from simipu_core.stages.table import read_scores, to_text

    with step("evaluate", report) as run:
        experiment = section["experiment"]
        made = release(
            Path(model.path),
            Path(depth.path),
            from_parameter(EvaluateConfig, section["evaluate"], "evaluate"),
            from_parameter(TrackingConfig, section["tracking"], "tracking"),
            Path(report.path),
            experiment=experiment,
            control=Path(control.path) if control else None,
            run=run,
        )
        summary = made.summary()
        for protocol, value in summary["abs_rel"].items():
            if value is not None:
                metrics.log_metric(f"abs_rel {protocol}", value)
        metrics.log_metric("promoted", int(made.promoted))
        metrics.metadata["gate"] = made.outcome
        panels, outcome = Path(report.path) / "panels", {**made.facts(), "MLflow": run.page}
        Path(table.path).write_text(markdown(made.report, experiment, outcome), encoding="utf-8")
        Path(page.path).write_text(html(made.report, experiment, outcome, panels), encoding="utf-8")
        Path(metrics.path).write_text(json.dumps(summary), encoding="utf-8")
        source = {"MLflow": run.page, "report": read_manifest(Path(report.path)).digest}
        for shown in (metrics, page, table):
            shown.metadata |= source
        return to_text(read_scores(Path(report.path)))
