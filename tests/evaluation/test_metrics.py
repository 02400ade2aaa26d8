import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simipu_core.evaluation.metrics import METRICS, depth_metrics, heading


def test_published_vector() -> None:
    """docs/method.md, "Metrics"."""
    scores = depth_metrics(np.array([1.0, 2, 5, 10]), np.array([1.1, 1.8, 7, 9]))
    expected = {
        "a1": 0.75,
        "a2": 1,
        "a3": 1,
        "abs_rel": 0.175,
        "rmse": 1.12361,
        "log_10": 0.0697589,
        "rmse_log": 0.190065,
        "silog": 18.1853,
        "sq_rel": 0.2325,
    }
    assert scores == pytest.approx(expected, rel=1e-5)
    assert scores.keys() == METRICS.keys()


@given(st.lists(st.tuples(st.floats(0.1, 80), st.floats(0.1, 80)), min_size=1, max_size=20), st.floats(0.5, 2))
def test_definitions_and_scale_invariance(pairs: list[tuple[float, float]], scale: float) -> None:
    truth, prediction = (np.array(values) for values in zip(*pairs, strict=True))
    scores = depth_metrics(truth, prediction)
    assert scores["abs_rel"] == pytest.approx(sum(abs(g - p) / g for g, p in pairs) / len(pairs))
    assert scores["a1"] <= scores["a2"] <= scores["a3"]
    assert scores["rmse_log"] == pytest.approx(math.sqrt(sum(math.log(g / p) ** 2 for g, p in pairs) / len(pairs)))
    assert depth_metrics(truth, prediction * scale)["silog"] == pytest.approx(scores["silog"], abs=1e-4)


def test_perfect_and_empty() -> None:
    truth = np.array([3.0, 30.0])
    perfect = depth_metrics(truth, truth)
    assert perfect == {name: float(metric.is_larger_better) for name, metric in METRICS.items()}
    assert (perfect["a1"], perfect["abs_rel"]) == (1, 0)
    assert all(math.isnan(value) for value in depth_metrics(np.array([]), np.array([])).values())


def test_a_heading_points_to_the_better_values() -> None:
    heads = ["a1\N{NO-BREAK SPACE}↑", "abs rel\N{NO-BREAK SPACE}↓", "of tomorrow"]
    assert [heading(name) for name in ("a1", "abs_rel", "of_tomorrow")] == heads
