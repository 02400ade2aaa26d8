import math

import numpy as np
import pytest
import torch

from simipu_core.losses.sig_loss import sig_loss


def test_published_vector() -> None:
    """docs/method.md, "SigLoss"."""
    loss = sig_loss(torch.tensor([1.0, 2, 4, 8]), torch.tensor([1.0, 1, 5, 0]))
    assert float(loss) == pytest.approx(0.4813455, abs=1e-6)


def test_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    prediction, depth = rng.uniform(1, 80, (2, 1, 5, 7)), rng.uniform(1, 80, (2, 1, 5, 7))
    depth[rng.random(depth.shape) < 0.5] = 0
    g = [math.log(p + 1e-3) - math.log(d + 1e-3) for p, d in zip(prediction.flat, depth.flat, strict=True) if d > 0]
    mean = sum(g) / len(g)
    variance = sum((x - mean) ** 2 for x in g) / (len(g) - 1)
    loss = sig_loss(torch.tensor(prediction), torch.tensor(depth), 0.15)
    assert float(loss) == pytest.approx(math.sqrt(variance + 0.15 * mean**2), rel=1e-12)


@pytest.mark.parametrize("measured", [0, 1])
def test_too_few_pixels_give_zero_and_no_gradient(measured: int) -> None:
    prediction = torch.full((4,), 2.0, requires_grad=True)
    depth = torch.zeros(4)
    depth[:measured] = 3.0
    loss = sig_loss(prediction, depth)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()
