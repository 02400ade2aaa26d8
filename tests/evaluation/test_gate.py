import math

import numpy as np
import pytest
from numpy.typing import NDArray

from simipu_core.config import PromotionConfig
from simipu_core.evaluation.gate import Decision, Paired, decide

RULES = PromotionConfig(max_abs_rel=0.5)
NUM_GROUPS, PER_GROUP = 12, 5
GROUPS = np.repeat(np.arange(NUM_GROUPS), PER_GROUP)


def champion_scores(seed: int = 0) -> NDArray[np.float64]:
    """Abs Rel around 0.2; frames of a sequence are alike."""
    rng = np.random.default_rng(seed)
    return 0.2 + np.repeat(rng.normal(0, 0.03, NUM_GROUPS), PER_GROUP) + rng.normal(0, 0.01, len(GROUPS))


def judged(challenger: NDArray[np.float64], champion: NDArray[np.float64], **rules: float) -> Decision:
    config = RULES.model_copy(update=rules)
    return decide(config, "whole_frame", float(challenger.mean()), Paired(4, challenger, champion, GROUPS))


def test_a_better_model_passes() -> None:
    champion = champion_scores()
    decision = judged(champion * 0.9, champion)
    assert decision.passed
    assert decision.relative_improvement == pytest.approx(0.1)
    assert decision.interval == pytest.approx((0.1, 0.1))  # each frame is better by the same share
    assert (decision.champion_version, decision.num_frames, decision.num_groups) == (4, 60, 12)
    assert "10.0% smaller than that of champion version 4" in decision.reason


def test_an_equal_model_does_not_pass() -> None:
    champion = champion_scores()
    decision = judged(champion.copy(), champion)
    assert not decision.passed
    assert decision.relative_improvement == 0
    assert decision.share_of_resamples == 0


def test_a_worse_model_does_not_pass() -> None:
    champion = champion_scores()
    decision = judged(champion * 1.05, champion)
    assert not decision.passed
    assert decision.relative_improvement == pytest.approx(-0.05)
    assert "is not more than 0.0% smaller" in decision.reason


def test_improvement_must_exceed_what_is_asked_for() -> None:
    champion = champion_scores()
    assert not judged(champion * 0.9, champion, min_relative_improvement=0.11).passed
    assert judged(champion * 0.9, champion, min_relative_improvement=0.09).passed
    half = np.full_like(champion, 0.25)  # binary fractions: exactly as much as asked for, which is not more
    assert not judged(half, 2 * half, min_relative_improvement=0.5).passed


def test_luck_on_a_few_sequences_is_not_enough() -> None:
    """Better on average, by one sequence out of twelve."""
    champion = champion_scores()
    challenger = champion * 1.01
    challenger[:PER_GROUP] *= 0.5
    decision = judged(challenger, champion)
    assert decision.relative_improvement is not None
    assert decision.relative_improvement > 0
    assert not decision.passed
    assert "promotion.confidence" in decision.reason
    assert judged(challenger, champion, confidence=0.5).passed
    assert decision.interval is not None
    assert decision.interval[0] < 0 < decision.interval[1]


def test_false_promotions_are_as_rare_as_the_confidence_says() -> None:
    """Challengers that are no better on the whole, with differences that belong to sequences."""
    champion = champion_scores()
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(200):
        challenger = champion + np.repeat(rng.normal(0, 0.02, NUM_GROUPS), PER_GROUP)
        passed += judged(challenger, champion, resamples=200).passed
    assert passed / 200 < 0.13  # 5%, and the bootstrap over few sequences is known to be too sure of itself


def test_one_sequence_is_resampled_by_frames() -> None:
    champion = champion_scores()
    decision = decide(RULES, "whole_frame", 0.18, Paired(1, champion * 0.9, champion, np.zeros(60, np.int64)))
    assert decision.num_groups == 60
    assert decision.passed


@pytest.mark.parametrize("abs_rel", [math.nan, math.inf])
def test_what_is_not_finite_does_not_pass(abs_rel: float) -> None:
    assert not decide(RULES, "whole_frame", abs_rel, None).passed
    assert "not finite" in decide(RULES, "whole_frame", abs_rel, None).reason


def test_the_first_model_needs_the_absolute_bound_only() -> None:
    assert decide(RULES, "whole_frame", 0.4, None).passed
    assert "there is no champion yet" in decide(RULES, "whole_frame", 0.4, None).reason
    assert not decide(RULES, "whole_frame", 0.51, None).passed


def test_the_absolute_bound_holds_beside_a_champion_too() -> None:
    champion = np.full(60, 0.9)
    assert not judged(champion * 0.7, champion).passed


def test_an_obstacle_stops_the_gate() -> None:
    champion = champion_scores()
    paired = Paired(1, champion * 0.5, champion, GROUPS)
    decision = decide(RULES, "whole_frame", 0.1, paired, obstacle="the champion was deleted")
    assert (decision.passed, decision.reason) == (False, "the champion was deleted")


def test_a_champion_that_fails_on_these_frames_is_left_to_people() -> None:
    champion = np.full(60, math.nan)
    assert "cannot be compared" in judged(np.full(60, 0.1), champion).reason


def test_a_decision_survives_json() -> None:
    decision = decide(RULES, "whole_frame", math.nan, None)
    again = Decision.model_validate_json(decision.model_dump_json())
    assert math.isnan(again.abs_rel)
    assert again.reason == decision.reason
