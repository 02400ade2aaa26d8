"""The gate: whether a challenger may replace the champion."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from simipu_core.config import PromotionConfig
from simipu_core.evaluation.intervals import Scores, bootstrap_means, interval


class Paired(NamedTuple):
    """Abs Rel of challenger and champion on the same pixels of the same frames."""

    champion_version: int
    challenger: Scores
    """(F,) one value a frame."""
    champion: Scores
    """(F,) one value a frame."""
    groups: NDArray[np.int64]
    """(F,) number of each frame's sequence, from 0."""


class Decision(BaseModel):
    """What the gate decided, with its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    passed: bool
    reason: str
    """One sentence."""
    protocol: str
    """Protocol whose Abs Rel decided."""
    abs_rel: float
    """Abs Rel of the challenger."""
    champion_version: int | None = None
    """Version it was compared with; none for the first model."""
    champion_abs_rel: float | None = None
    """Abs Rel of the champion on the same pixels."""
    relative_improvement: float | None = None
    """Share by which the challenger's Abs Rel is smaller; negative where it is larger."""
    interval: tuple[float, float] | None = None
    """Bootstrap interval of the relative improvement, at `confidence`."""
    share_of_resamples: float | None = None
    """Share of the resamples with enough improvement."""
    num_frames: int | None = None
    num_groups: int | None = None
    """Sequences that were resampled; where there is only one, its frames."""


def decide(
    config: PromotionConfig,
    protocol: str,
    abs_rel: float,
    paired: Paired | None,
    *,
    obstacle: str | None = None,
) -> Decision:
    """Apply the gate: finite, under the absolute bound, strictly better than the champion, and confidently so.

    Confidence comes from a paired bootstrap over sequences (:func:`simipu_core.evaluation.intervals.bootstrap_means`).
    The first model needs only the first two.

    Args:
        config: bounds.
        protocol: protocol whose Abs Rel is given.
        abs_rel: Abs Rel of the challenger over all its frames.
        paired: both models' scores; None where there is no champion.
        obstacle: sentence that says why the champion cannot be compared with, if so.
    """

    def no(reason: str, **numbers: object) -> Decision:
        return Decision.model_validate(
            {"passed": False, "reason": reason, "protocol": protocol, "abs_rel": abs_rel} | numbers
        )

    if not np.isfinite(abs_rel):
        return no(f"its Abs Rel under {protocol} is not finite")
    if abs_rel > config.max_abs_rel:
        return no(f"its Abs Rel {abs_rel:.4f} exceeds promotion.max_abs_rel {config.max_abs_rel:g}")
    if obstacle:
        return no(obstacle)
    if paired is None:
        first = f"its Abs Rel {abs_rel:.4f} is within promotion.max_abs_rel {config.max_abs_rel:g}"
        return no(f"{first}, and there is no champion yet").model_copy(update={"passed": True})
    return _compare(config, protocol, abs_rel, paired)


def _compare(config: PromotionConfig, protocol: str, abs_rel: float, paired: Paired) -> Decision:
    groups = paired.groups if paired.groups.max() > 0 else np.arange(len(paired.groups))
    challenger, champion = float(paired.challenger.mean()), float(paired.champion.mean())
    known = {
        "protocol": protocol,
        "abs_rel": abs_rel,
        "champion_version": paired.champion_version,
        "champion_abs_rel": champion,
        "num_frames": len(groups),
        "num_groups": int(groups.max()) + 1,
    }
    against = f"champion version {paired.champion_version} (Abs Rel {champion:.4f})"
    if not (np.isfinite([challenger, champion]).all() and champion > 0):
        return Decision.model_validate(known | {"passed": False, "reason": f"it cannot be compared with {against}"})
    means = [
        bootstrap_means(scores[None], groups, num=config.resamples) for scores in (paired.challenger, paired.champion)
    ]
    resampled = 1 - means[0] / means[1]
    improvement = 1 - challenger / champion
    share = float(np.mean(resampled > config.min_relative_improvement))
    wanted = config.min_relative_improvement
    if not improvement > wanted:
        reason = f"its Abs Rel {challenger:.4f} is not more than {wanted:.1%} smaller than that of {against}"
    elif share < config.confidence:
        reason = (
            f"its Abs Rel {challenger:.4f} is {improvement:.1%} smaller than that of {against}, but only in "
            f"{share:.1%} of the resamples is it enough, and promotion.confidence is {config.confidence:.1%}"
        )
    else:
        reason = (
            f"its Abs Rel {challenger:.4f} is {improvement:.1%} smaller than that of {against}, enough in "
            f"{share:.1%} of the resamples"
        )
    return Decision.model_validate(
        known
        | {
            "passed": improvement > wanted and share >= config.confidence,
            "reason": reason,
            "relative_improvement": improvement,
            "interval": interval(resampled, config.confidence),
            "share_of_resamples": share,
        }
    )
