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
    model_name: str,
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Markdown],
    control: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 (kfp reads no `|`)
) -> None:
    """Score the depth net under every named protocol and register it.

    Args:
        experiment: name of the experiment.
        model: depth net.
        depth: image-depth shards; their held-out part is scored.
        config: `evaluate` section.
        tracking: `tracking` section, without what follows.
        model_name: registered model.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers and the registered version.
        page: the report as a page with its pictures.
        table: all scores.
        control: depth net trained from scratch, scored beside the model.
    """
    import json
    import os
    from pathlib import Path

    from simipu_core.config import EvaluateConfig, TrackingConfig
    from simipu_core.errors import plain_errors
    from simipu_core.evaluation.pages import html, markdown
    from simipu_core.evaluation.report import Report
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.evaluate import evaluate
    from simipu_core.tracking.mlflow_run import step as track
    from simipu_core.tracking.registry import register

    with plain_errors(), track(os.environ.get("SIMIPU_STEP", "evaluate")) as run:
        evaluate(
            Path(model.path),
            Path(depth.path),
            from_parameter(EvaluateConfig, config, "evaluate"),
            Path(report.path),
            control=Path(control.path) if control else None,
            run=run,
        )
        scores = Report.model_validate_json((Path(report.path) / "report.json").read_text(encoding="utf-8"))
        registry = from_parameter(TrackingConfig, tracking, "tracking", {"model_name": model_name})
        version = register(run, Path(model.path), scores, registry, experiment)
        abs_rel = {protocol: values["abs_rel"] for protocol, values in scores.metrics.items()}
        for protocol, value in abs_rel.items():
            metrics.log_metric(f"abs_rel {protocol}", value)
        Path(table.path).write_text(markdown(scores, experiment), encoding="utf-8")
        Path(page.path).write_text(html(scores, experiment, Path(report.path) / "panels"), encoding="utf-8")
        content = {"abs_rel": abs_rel, "model": version.model_dump()}
        Path(metrics.path).write_text(json.dumps(content), encoding="utf-8")
