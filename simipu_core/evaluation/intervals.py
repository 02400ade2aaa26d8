"""Bootstrap intervals of scores over training seeds and evaluation frames."""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def bootstrap_means(scores: Scores, groups: NDArray[np.int64], num: int = 4000, seed: int = 0) -> Scores:
    """Means over resampled seeds and resampled groups of frames (two-level percentile bootstrap, Efron 1979).

    Frames of one drive are alike, so whole drives are drawn. Arms scored on the same frames with the same `seed`
    get the same draws, so that differences and ratios of their means are paired.

    Args:
        scores: (S, F) one score per training seed and frame.
        groups: (F,) number of each frame's group, from 0.
        num: resamples.
        seed: seed of the resampling.

    Returns:
        (num,) means.
    """
    rng = np.random.default_rng(seed)
    num_seeds, num_groups = len(scores), int(groups.max()) + 1
    sums = np.stack([np.bincount(groups, weights=row, minlength=num_groups) for row in scores])
    sizes = np.bincount(groups, minlength=num_groups)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num)
    drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num)
    means: Scores = np.einsum("bs,sg,bg->b", seeds, sums, drawn) / num_seeds / (drawn @ sizes)
    return means


def interval(means: Scores, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap means."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
