"""The depth metrics of one image."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Errors(NamedTuple):
    """The valid pixels of one image, (P,) float64 each, P > 0."""

    truth: NDArray[np.float64]
    """Metres."""
    difference: NDArray[np.float64]
    """Truth minus prediction, metres."""
    ratio: NDArray[np.float64]
    """The larger of truth and prediction over the smaller."""
    log: NDArray[np.float64]
    """ln(prediction) - ln(truth)."""


class Metric(NamedTuple):
    """One number for an image."""

    of: Callable[[Errors], float | np.floating]
    is_larger_better: bool = False


METRICS = {
    "a1": Metric(lambda e: np.mean(e.ratio < 1.25), is_larger_better=True),
    "a2": Metric(lambda e: np.mean(e.ratio < 1.25**2), is_larger_better=True),
    "a3": Metric(lambda e: np.mean(e.ratio < 1.25**3), is_larger_better=True),
    "abs_rel": Metric(lambda e: np.mean(np.abs(e.difference) / e.truth)),
    "sq_rel": Metric(lambda e: np.mean(e.difference**2 / e.truth)),
    "rmse": Metric(lambda e: np.sqrt(np.mean(e.difference**2))),
    "rmse_log": Metric(lambda e: np.sqrt(np.mean(e.log**2))),
    "log_10": Metric(lambda e: np.mean(np.abs(e.log)) / np.log(10)),
    "silog": Metric(lambda e: 100 * np.sqrt(np.maximum(np.mean(e.log**2) - np.mean(e.log) ** 2, 0.0))),
}
"""All metrics (docs/method.md, "Metrics"; Eigen et al. 2014), in the order of tables: a1, a2, a3 are shares of pixels,
sq_rel and rmse metres, silog is ×100. One line more is a further column of reports, tables and per-image scores, and a
further value in MLflow, whose names take letters, digits, and ``_ - . /``."""


def depth_metrics(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> dict[str, float]:
    """All of `METRICS` over valid pixels.

    Args:
        truth: (P,) metres, positive.
        prediction: (P,) metres, positive.

    Returns:
        value by name; all NaN where P is 0.
    """
    if truth.size == 0:
        return dict.fromkeys(METRICS, float("nan"))
    g, p = truth.astype(np.float64), prediction.astype(np.float64)
    errors = Errors(truth=g, difference=g - p, ratio=np.maximum(g / p, p / g), log=np.log(p) - np.log(g))
    return {name: float(metric.of(errors)) for name, metric in METRICS.items()}


def heading(name: str) -> str:
    """A metric's name as a column's head, with an arrow to its better values."""
    words = name.replace("_", " ")
    return f"{words}\N{NO-BREAK SPACE}{'↑' if METRICS[name].is_larger_better else '↓'}" if name in METRICS else words
