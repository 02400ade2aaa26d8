"""The report that evaluation writes: every number under its protocol's name."""

from pydantic import BaseModel, ConfigDict

from simipu_core.evaluation.gate import Decision

Scores = dict[str, float]
"""Name of one of `METRICS` → its value, averaged over images."""


class ChampionScores(BaseModel):
    """How the champion did on the same frames, over the pixels that both nets answer for."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    version: int
    metrics: dict[str, Scores]
    """By protocol."""


class Report(BaseModel):
    """``report.json`` of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    headline: str
    """Protocol of the headline Abs Rel."""
    num_images: int
    """Images that were scored."""
    flip: bool
    """Whether predictions were averaged with those of the mirrored image."""
    metrics: dict[str, Scores]
    """Scores of the model, by protocol."""
    baselines: dict[str, dict[str, Scores]]
    """Scores of `constant_depth` (the training set's median depth everywhere) and, where it was trained, of
    `scratch_control`, by protocol."""
    model_digest: str
    data_digest: str
    intervals: dict[str, tuple[float, float]] = {}
    """95% bootstrap interval of the model's Abs Rel over whole sequences, by protocol; where there is only one
    sequence, over its frames."""
    champion: ChampionScores | None = None
    decision: Decision | None = None
    """What the promotion gate decided, unless it is off."""

    @property
    def abs_rel(self) -> float:
        """Headline Abs Rel."""
        return self.metrics[self.headline]["abs_rel"]
