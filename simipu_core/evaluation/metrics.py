"""The nine depth metrics of one image."""

import numpy as np
from numpy.typing import NDArray

NAMES = ("a1", "a2", "a3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog")


def depth_metrics(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> dict[str, float]:
    """Metrics over valid pixels (reference section 6; Eigen et al. 2014).

    Args:
        truth: (P,) metres, positive.
        prediction: (P,) metres, positive.

    Returns:
        a1, a2, a3 (shares with a ratio under 1.25, 1.25², 1.25³), abs_rel, sq_rel (metres), rmse (metres),
        rmse_log, log_10, silog (×100); all NaN where P is 0.
    """
    if truth.size == 0:
        return dict.fromkeys(NAMES, float("nan"))
    g, p = truth.astype(np.float64), prediction.astype(np.float64)
    ratio = np.maximum(g / p, p / g)
    difference = g - p
    log = np.log(p) - np.log(g)
    values = {
        **{f"a{k}": np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
        "abs_rel": np.mean(np.abs(difference) / g),
        "sq_rel": np.mean(difference**2 / g),
        "rmse": np.sqrt(np.mean(difference**2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log_10": np.mean(np.abs(log)) / np.log(10),
        "silog": 100 * np.sqrt(max(np.mean(log**2) - np.mean(log) ** 2, 0.0)),
    }
    return {name: float(values[name]) for name in NAMES}
