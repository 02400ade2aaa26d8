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
    """Score the depth net and the champion under every named protocol, register it, promote it if it passes.

    Args:
        experiment: name of the experiment.
        model: depth net.
        depth: image-depth shards; their held-out part is scored.
        config: `evaluate` section.
        tracking: `tracking` section, with the promotion rule.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers, the registered version and the gate's decision.
        control: depth net trained from scratch, scored beside the model.
    """
    import json
    from pathlib import Path

    from simipu_core.config import EvaluateConfig, TrackingConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.release import release
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track("evaluate", out=Path(report.path), is_last=True) as run:
        made = release(
            Path(model.path),
            Path(depth.path),
            from_parameter(EvaluateConfig, config, "evaluate"),
            from_parameter(TrackingConfig, tracking, "tracking"),
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
        Path(metrics.path).write_text(json.dumps(summary), encoding="utf-8")
