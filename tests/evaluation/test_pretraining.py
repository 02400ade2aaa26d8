import numpy as np
import pytest
import torch

from simipu_core.evaluation.pretraining import collapse, linear_probe, pair_quality


def test_pair_quality_counts() -> None:
    centres = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0]]])
    distance = torch.tensor([[0.05, 0.2, 2.0, torch.nan]])
    visible = torch.tensor([[True, True, False, True]])
    quality = {name: float(value) for name, value in pair_quality(centres, distance, visible).items()}
    assert quality == pytest.approx(
        {
            "matched_share": 0.75,
            "visible_share": 0.75,
            "duplicate_share": 0.25,
            "match_distance_m_median": 0.2,
            "match_distance_m_max": 2.0,
            "match_within_0.1m": 1 / 3,
            "match_within_0.3m": 2 / 3,
            "match_within_1m": 2 / 3,
            "match_within_3m": 1.0,
        }
    )


def test_pair_quality_without_any_pair() -> None:
    quality = pair_quality(torch.zeros(1, 2, 3), torch.full((1, 2), torch.nan), torch.ones(1, 2, dtype=torch.bool))
    assert float(quality["matched_share"]) == 0
    assert "match_distance_m_median" not in quality


def test_collapse_tells_spread_from_collapsed_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = collapse(torch.randn(4000, 16, generator=generator))
    assert float(spread["embedding_std"]) == pytest.approx(1, abs=0.02)
    assert float(spread["effective_rank"]) == pytest.approx(16, abs=0.2)
    flat = collapse(torch.randn(4000, 3, generator=generator) @ torch.randn(3, 16, generator=generator))
    assert float(flat["effective_rank"]) < 3.01
    point = collapse(torch.ones(100, 16))
    assert float(point["embedding_std"]) == pytest.approx(0, abs=1e-6)


def test_probe_finds_a_linear_relation_and_equals_lstsq() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6))
    depth = np.exp(features @ rng.normal(size=6) * 0.3 + 2 + rng.normal(size=500) * 0.1)
    held_out = np.arange(500) >= 400
    scores = linear_probe(torch.tensor(features), torch.tensor(depth), torch.tensor(held_out), 1e-9)
    design = np.column_stack([features, np.ones(500)])
    weights = np.linalg.lstsq(design[~held_out], np.log(depth[~held_out]), rcond=None)[0]
    predicted = np.exp(design[held_out] @ weights).clip(depth[~held_out].min(), depth[~held_out].max())
    truth = depth[held_out]
    assert scores["probe_abs_rel"] == pytest.approx(np.mean(np.abs(predicted - truth) / truth), rel=1e-5)
    constant = np.sort(depth[~held_out])[199]  # torch's median is the lower of the two middle values
    assert scores["probe_constant_abs_rel"] == pytest.approx(np.mean(np.abs(constant - truth) / truth), rel=1e-6)
    assert scores["probe_abs_rel"] < 0.5 * scores["probe_constant_abs_rel"]
