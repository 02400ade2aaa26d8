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
    mode: str,
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Markdown],
    control: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045 (kfp reads no `|`)
) -> None:
    """Score the depth net and the champion under every named protocol, register it, promote it if it passes.

    Args:
        experiment: name of the experiment.
        model: depth net.
        depth: image-depth shards; their held-out part is scored.
        config: `evaluate` section.
        tracking: `tracking` section, with the promotion rule and without what follows.
        model_name: registered model.
        mode: what follows from the comparison with the champion: report, promote or off.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers, the registered version and the gate's decision.
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
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.release import release
    from simipu_core.tracking.mlflow_run import step as track

    step, is_last = os.environ.get("SIMIPU_STEP", "evaluate"), os.environ.get("SIMIPU_LAST_STEP") == "true"
    with plain_errors(), track(step, out=Path(report.path), is_last=is_last) as run:
        made = release(
            Path(model.path),
            Path(depth.path),
            from_parameter(EvaluateConfig, config, "evaluate"),
            from_parameter(TrackingConfig, tracking, "tracking", {"model_name": model_name, "promotion.mode": mode}),
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
        Path(table.path).write_text(markdown(made.report, experiment), encoding="utf-8")
        Path(page.path).write_text(html(made.report, experiment, Path(report.path) / "panels"), encoding="utf-8")
        Path(metrics.path).write_text(json.dumps(summary), encoding="utf-8")
