import numpy as np
import pytest

from simipu_core.evaluation.intervals import bootstrap_means, interval


def slow_bootstrap(scores: np.ndarray, groups: np.ndarray, num: int) -> np.ndarray:
    """Draw seeds and groups one by one and pool the frames."""
    rng = np.random.default_rng(7)
    means = []
    for _ in range(num):
        seeds = rng.integers(len(scores), size=len(scores))
        drawn = rng.integers(groups.max() + 1, size=groups.max() + 1)
        frames = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        means.append(scores[np.ix_(seeds, frames)].mean())
    return np.array(means)


def test_equals_drawing_one_by_one() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    scores = rng.gamma(2, size=(5, 8)) + rng.normal(size=(5, 1)) + rng.normal(size=5)[groups]
    ours, slow = bootstrap_means(scores, groups, 20000), slow_bootstrap(scores, groups, 20000)
    assert ours.mean() == pytest.approx(slow.mean(), abs=0.02)
    assert ours.std() == pytest.approx(slow.std(), rel=0.03)
    np.testing.assert_allclose(interval(ours), interval(slow), atol=0.06)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        scores = rng.normal(size=(40, 1)) + rng.normal(size=60)
        low, high = interval(bootstrap_means(scores, np.arange(60), 400))
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 1


def test_arms_on_the_same_frames_get_the_same_draws() -> None:
    scores = np.random.default_rng(2).gamma(2, size=(3, 10))
    groups = np.arange(10) // 2
    np.testing.assert_allclose(bootstrap_means(2 * scores, groups), 2 * bootstrap_means(scores, groups))
