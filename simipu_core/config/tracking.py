"""Sections of tracking and promotion."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from simipu_core.config.depth import Protocol
from simipu_core.config.section import Section


class PromotionConfig(Section):
    """When a new model version replaces the champion: the gate that evaluation applies."""

    mode: Literal["off", "report", "promote"] = "report"
    """`off`: the champion is not scored · `report`: challenger and champion are scored on the same frames and the
    decision is recorded · `promote`: a challenger that passes becomes champion at once."""
    protocol: Protocol | None = None
    """Protocol whose Abs Rel decides, one of evaluate.protocols; null takes the headline."""
    max_abs_rel: float = Field(0.5, gt=0)
    """Abs Rel above which no version passes, champion or not."""
    min_relative_improvement: float = Field(0.0, ge=0, lt=1)
    """Share by which the challenger's Abs Rel must be smaller than the champion's; more than this, not as much."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """Share of the resamples (paired bootstrap over whole sequences) in which it must improve by more than that."""
    resamples: int = Field(4000, ge=100)
    """Number of resamples."""


_NOT_IN_NAMES = "/:@?#%'\"`\\"
"""What MLflow refuses in names of models, or reads as something else in ``models:/NAME@ALIAS`` and in its queries."""


def _mlflow_name(name: str) -> str:
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise ValueError("must be one line of printable characters, without spaces at its ends")
    return name


def _model_name(name: str) -> str:
    if found := [character for character in _NOT_IN_NAMES if character in name]:
        raise ValueError(f"MLflow takes no {' '.join(found)} in the name of a model")
    if name in (".", ".."):
        raise ValueError("MLflow takes this for a folder; write a name")
    return _mlflow_name(name)


class TrackingConfig(Section):
    """Where results are recorded, and which models are promoted."""

    mlflow_experiment: Annotated[str, AfterValidator(_mlflow_name)] = Field("simipu", max_length=256)
    """MLflow experiment that collects the runs."""
    model_name: Annotated[str, AfterValidator(_model_name)] = Field("simipu-depth", max_length=240)
    """Registered model that gets a new version from every evaluated run."""
    promotion: PromotionConfig = PromotionConfig()
    """Promotion."""
