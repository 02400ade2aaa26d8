"""Sections of tracking and promotion."""

from typing import Literal

from pydantic import Field

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


class TrackingConfig(Section):
    """Where results are recorded, and which models are promoted."""

    mlflow_experiment: str = Field("simipu", min_length=1)
    """MLflow experiment that collects the runs."""
    model_name: str = Field("simipu-depth", min_length=1)
    """Registered model that gets a new version from every evaluated run."""
    promotion: PromotionConfig = PromotionConfig()
    """Promotion."""
