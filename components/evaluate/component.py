from typing import Any, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    experiment: str,
    model: dsl.Input[dsl.Model],
    depth: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    tracking: dict[str, Any],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    control: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 (kfp reads no `|`)
) -> None:
    """Score the depth net under every named protocol and register it.

    Args:
        experiment: name of the experiment.
        model: depth net.
        depth: image-depth shards; their held-out part is scored.
        config: `evaluate` section.
        tracking: `tracking` section.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers and the registered version.
        control: depth net trained from scratch, scored beside the model.
    """
    import json
    from pathlib import Path

    from simipu_core.config import EvaluateConfig, TrackingConfig
    from simipu_core.errors import plain_errors
    from simipu_core.evaluation.report import Report
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.evaluate import evaluate
    from simipu_core.tracking.mlflow_run import step as track
    from simipu_core.tracking.registry import register

    with plain_errors(), track("evaluate") as run:
        evaluate(
            Path(model.path),
            Path(depth.path),
            from_parameter(EvaluateConfig, config, "evaluate"),
            Path(report.path),
            control=Path(control.path) if control else None,
            run=run,
        )
        scores = Report.model_validate_json((Path(report.path) / "report.json").read_text(encoding="utf-8"))
        registry = from_parameter(TrackingConfig, tracking, "tracking")
        version = register(run, Path(model.path), scores, registry, experiment)
        abs_rel = {protocol: values["abs_rel"] for protocol, values in scores.metrics.items()}
        for protocol, value in abs_rel.items():
            metrics.log_metric(f"abs_rel {protocol}", value)
        content = {"abs_rel": abs_rel, "model": version.model_dump()}
        Path(metrics.path).write_text(json.dumps(content), encoding="utf-8")
