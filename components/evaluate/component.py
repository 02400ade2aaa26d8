from typing import Any, NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate(
    section: dict[str, Any],
    model: dsl.Input[dsl.Model],
    depth: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Markdown],
) -> NamedTuple("Scores", [("scores", str)]):  # type: ignore[valid-type]
    """Score the depth net and the champion under every named protocol, register it, promote it if it passes.

    Args:
        section: name of the `experiment`, and its sections `evaluate` and `tracking`.
        model: depth net.
        depth: image-depth shards; their held-out part is scored.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers, the registered version and the gate's decision.
        page: the report as a page with its pictures.
        table: all scores.
    """
    from simipu_core.stages.step import score

    return (score(section, model, depth, report, metrics, page, table),)


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def evaluate_with_control(
    section: dict[str, Any],
    model: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    depth: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    table: dsl.Output[dsl.Markdown],
) -> NamedTuple("Scores", [("scores", str)]):  # type: ignore[valid-type]
    """The same, with a depth net trained from PyTorch's default weights beside the model.

    Args:
        section: name of the `experiment`, and its sections `evaluate` and `tracking`.
        model: depth net.
        control: depth net trained from PyTorch's default weights.
        depth: image-depth shards; their held-out part is scored.
        report: scores, baselines, per-image table, pictures.
        metrics: headline numbers, the registered version and the gate's decision.
        page: the report as a page with its pictures.
        table: all scores.
    """
    from simipu_core.stages.step import score

    return (score(section, model, depth, report, metrics, page, table, control),)
