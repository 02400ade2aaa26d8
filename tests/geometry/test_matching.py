from itertools import permutations

import numpy as np

from simipu_core.geometry.matching import hungarian, mutual_nearest


def test_mutual_nearest_equals_the_definition() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(50, 3)).astype(np.float32)
    distance = np.linalg.norm(a[:, None] - b, axis=2)
    expected = [
        int(distance[i].argmin()) if distance[:, distance[i].argmin()].argmin() == i else -1 for i in range(len(a))
    ]
    assert mutual_nearest(a, b).tolist() == expected
    assert -1 in expected


def test_hungarian_equals_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    cost = [sum(float(np.linalg.norm(a[i] - b[j])) for i, j in enumerate(order)) for order in permutations(range(6))]
    best = list(permutations(range(6)))[int(np.argmin(cost))]
    assert hungarian(a, b).tolist() == list(best)


def test_hungarian_recovers_a_shuffle() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(100, 3)).astype(np.float32)
    order = rng.permutation(100)
    assert (a[order][hungarian(a, a[order])] == a).all()
