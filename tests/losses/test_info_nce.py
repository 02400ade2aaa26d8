import math

import numpy as np
import pytest
import torch
from torch import Tensor

from simipu_core.losses.info_nce import info_nce


def slow_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    losses = []
    for i, query in enumerate(queries):
        similarities = [float(query @ key / (query.norm() * key.norm())) / temperature for key in keys]
        losses.append(-similarities[i] + math.log(sum(math.exp(s) for s in similarities)))
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("dim", [3, 32])
def test_equals_the_definition(temperature: float, dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    queries = torch.randn(20, dim, generator=generator, dtype=torch.float64)
    keys = torch.randn(20, dim, generator=generator, dtype=torch.float64)
    result = info_nce(queries, keys, temperature)
    assert float(result.loss) == pytest.approx(slow_info_nce(queries, keys, temperature), rel=1e-9)


def test_chunks_equal_one_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(23, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(23, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    similarities = torch.cosine_similarity(queries[:, None], keys[None], dim=2) / 0.2
    expected = -similarities.log_softmax(dim=1).diagonal().mean()
    results = [info_nce(queries, keys, 0.2, chunk_rows=rows) for rows in (None, 5, 23)]
    for result in results:
        torch.testing.assert_close(result.loss, expected)
        assert float(result.top5) == float(results[0].top5)
        torch.testing.assert_close(
            torch.autograd.grad(result.loss, [queries, keys], retain_graph=True),
            torch.autograd.grad(expected, [queries, keys], retain_graph=True),
        )


def test_low_precision_inputs_are_computed_in_float32() -> None:
    queries = torch.randn(30, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = info_nce(queries, queries.roll(1, 0), 0.07)
    assert result.loss.dtype is torch.float32
    torch.testing.assert_close(result.loss, info_nce(queries.float(), queries.roll(1, 0).float(), 0.07).loss)


def test_chance_levels() -> None:
    """docs/method.md, "Acceptance numbers": ln 4096 for equal similarities, 9.11 for independent unit vectors."""
    same = info_nce(torch.ones(4096, 8), torch.ones(4096, 8), 0.07)
    assert float(same.loss) == pytest.approx(8.318, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    random = info_nce(torch.randn(4096, 128, generator=generator), torch.randn(4096, 128, generator=generator), 0.07)
    assert float(random.loss) == pytest.approx(9.11, abs=0.05)


def test_accuracies_are_shares_of_queries() -> None:
    keys = torch.eye(10)
    queries = keys.clone()
    queries[0] = torch.tensor([1.0, 2, 2, 2, 0, 0, 0, 0, 0, 0])  # own key fourth
    queries[1] = torch.tensor([2.0, 1, 2, 2, 2, 2, 0, 0, 0, 0])  # own key sixth
    result = info_nce(queries, keys, 0.07)
    assert float(result.top1) == pytest.approx(0.8)
    assert float(result.top5) == pytest.approx(0.9)


def test_ties_count_as_chance_would_find_them() -> None:
    same = info_nce(torch.ones(10, 3), torch.ones(10, 3), 0.07)  # as of a collapsed network
    assert (float(same.top1), float(same.top5)) == pytest.approx((0.1, 0.5))
    keys = torch.eye(10)
    keys[1] = keys[0]  # twins
    twins = info_nce(keys, keys, 0.07)
    assert (float(twins.top1), float(twins.top5)) == pytest.approx((0.9, 1.0))


@pytest.mark.parametrize("num", [3, 10])
@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_nan_is_no_hit(num: int, chunk_rows: int | None) -> None:
    queries = torch.eye(num)
    queries[0, 1] = torch.nan
    spoilt = info_nce(queries, torch.eye(num), 0.07, chunk_rows=chunk_rows)
    assert (float(spoilt.top1), float(spoilt.top5)) == pytest.approx(((num - 1) / num,) * 2)
    nothing = info_nce(torch.eye(num), queries, 0.07, chunk_rows=chunk_rows)  # every query meets the spoilt key
    assert (float(nothing.top1), float(nothing.top5)) == (0, 0)
