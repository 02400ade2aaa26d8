"""Stage: score a depth net beside the champion, register it, and promote it where the gate says so."""

import math
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from simipu_core.artifacts import MANIFEST, local_artifact, read_manifest
from simipu_core.config import EvaluateConfig, TrackingConfig
from simipu_core.evaluation.report import Report
from simipu_core.stages.evaluate import CONTROL, MODEL, evaluate
from simipu_core.tracking import promotion
from simipu_core.tracking.mlflow_run import PARENT_RUN_ID, PIPELINE_RUN, MlflowRun
from simipu_core.tracking.registry import CHAMPION, ModelVersion, register, set_outcome


class Release(BaseModel):
    """What became of a depth net."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    report: Report
    model: ModelVersion
    promoted: bool
    outcome: str
    """One sentence: what the gate decided, and what was done."""

    def facts(self) -> dict[str, str]:
        """What became of it, for pages."""
        return {"Gate": self.outcome, "Version": f"{self.model.name} {self.model.version}, {self.model.alias}"}

    def summary(self) -> dict[str, Any]:
        """Headline numbers, version and decision as plain JSON; a number that is not finite is null."""
        abs_rel = {protocol: scores["abs_rel"] for protocol, scores in self.report.metrics.items()}
        content = {"abs_rel": abs_rel, **self.model_dump(exclude={"report"})}
        if self.report.decision:
            content["decision"] = self.report.decision.model_dump()
        plain: dict[str, Any] = _finite(content)
        return plain


def release(
    model: Path,
    depth: Path,
    config: EvaluateConfig,
    tracking: TrackingConfig,
    out: Path,
    *,
    experiment: str,
    run: MlflowRun,
    control: Path | None = None,
) -> Release:
    """Evaluate, register as the newest version, and promote it if it passes and `promotion.mode` is `promote`.

    A release that was interrupted can be repeated: a report that is there already is taken where it is of the same
    inputs and settings, and neither the version nor the promotion is made twice.

    Challenger and champion are scored on the same frames in this one step. The champion is only replaced if it is
    still the one that was scored; of two steps that beat the same champion at the same time, one wins.

    Args:
        model: artifact of kind `depth_net`.
        depth: artifact of kind `depth`.
        config: the experiment's `evaluate` section.
        tracking: the experiment's `tracking` section.
        out: artifact directory to write, kind `report`.
        experiment: name of the experiment.
        run: run of this step.
        control: artifact of kind `depth_net` that started from PyTorch's default weights.

    Raises:
        SimipuError: the inputs do not fit, or MLflow does not answer or refuses.
    """
    model = local_artifact(model)
    rules = tracking.promotion
    if not _is_evaluated(model, depth, config, out, control, is_judged=rules.mode != "off"):
        if rules.mode == "off":
            evaluate(model, depth, config, out, control=control, run=run)
        else:
            with promotion.champion(tracking) as champion:
                evaluate(model, depth, config, out, control=control, champion=champion, promotion=rules, run=run)
    report = _report(out)
    evaluation = _pipeline() or read_manifest(out, "report").mlflow_run_id
    registered = register(run, model, report, tracking, experiment, evaluation=evaluation)
    decision = report.decision
    outcome = "not judged: tracking.promotion.mode is off"
    refusal: str | None = None
    promoted = False
    if decision and decision.champion_version == registered.version:  # it was promoted before an interruption
        promoted, outcome = True, "is champion already"
    elif decision:
        outcome = f"{'passed' if decision.passed else 'did not pass'} the gate: {decision.reason}"
        if decision.passed and rules.mode == "report":
            outcome += f"; `make promote VERSION={registered.version}` makes it champion"
        elif decision.passed:
            refusal = promotion.promote_instead_of(
                decision.champion_version, registered.version, tracking, reason=decision.reason, by=_author(run)
            )
            promoted = refusal is None
            outcome += "; now champion" if promoted else f"; not promoted: {refusal}"
    set_outcome(run, registered, outcome)
    if promoted:
        registered = registered.model_copy(update={"alias": CHAMPION})
    return Release(report=report, model=registered, promoted=promoted, outcome=outcome)


def _is_evaluated(
    model: Path, depth: Path, config: EvaluateConfig, out: Path, control: Path | None, *, is_judged: bool
) -> bool:
    """Whether `out` is what :func:`evaluate` would write, but for the champion."""
    if not (out / MANIFEST).is_file():
        return False
    inputs = {MODEL: model, "depth": depth} | ({CONTROL: control} if control else {})
    made = read_manifest(out, "report")
    return (
        made.inputs == {role: read_manifest(place).digest for role, place in inputs.items()}
        and made.parameters == config.model_dump(mode="json")
        and (_report(out).decision is not None) == is_judged
    )


def _report(out: Path) -> Report:
    return Report.model_validate_json((out / "report.json").read_text(encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _author(run: MlflowRun) -> str:
    pipeline = _pipeline()
    return f"pipeline run {pipeline}" if pipeline else f"run {run.id}"


def _pipeline() -> str | None:
    return os.environ.get(PIPELINE_RUN) or os.environ.get(PARENT_RUN_ID)
