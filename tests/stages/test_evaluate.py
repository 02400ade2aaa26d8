"""Evaluation beside a champion: same pixels, own conventions, NaN, the gate's word."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from simipu_core.artifacts import write_artifact
from simipu_core.config import (
    DepthAugmentConfig,
    EvaluateConfig,
    FinetuneConfig,
    InputConfig,
    PromotionConfig,
    TrackingConfig,
)
from simipu_core.evaluation.gate import Decision
from simipu_core.evaluation.report import Report
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.stages import release as release_stage
from simipu_core.stages.evaluate import evaluate
from simipu_core.tracking.champion import Champion
from simipu_core.tracking.mlflow_run import MlflowRun
from simipu_core.tracking.registry import ModelVersion
from tests.samples import depth_row, write_shards

EVALUATE = EvaluateConfig(protocols=("whole_frame", "garg_full_frame"), panels=0, flip=False)
RULES = PromotionConfig(max_abs_rel=10.0, resamples=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def depth(folder: Path) -> Path:
    frames = [depth_row(index, sequence=f"drive {index // 2}") for index in range(6)]
    return write_shards(folder / "depth", "depth", train=[depth_row(9)], eval=frames)


def net(out: Path, seed: int, *, broken: bool = False, **changes: Any) -> Path:
    """An untrained depth net whose answers depend on the seed; its bias moves them nearer to the truth or farther."""
    torch.manual_seed(seed)
    config = FinetuneConfig(
        encoder_name="resnet18",
        init="kaiming_zero_gamma",
        decoder_channels=(8, 8, 8, 8),
        augment=DepthAugmentConfig(fixed_crop="none"),
        **changes,
    )
    made = build_depth_net(config, None)
    if broken:
        with torch.no_grad():
            next(made.decoder.parameters()).fill_(math.nan)
    with write_artifact(out, "depth_net", inputs={}, parameters={}, licence="made up") as draft:
        save_depth_net(made, draft.path / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return net(folder / "model", 0)


def scored(model: Path, depth: Path, out: Path, champion: Champion | None, rules: PromotionConfig = RULES) -> Report:
    evaluate(model, depth, EVALUATE, out, champion=champion, promotion=rules)
    return Report.model_validate_json((out / "report.json").read_text())


def decision(report: Report) -> Decision:
    assert report.decision
    return report.decision


def test_a_model_beside_itself_is_no_better(model: Path, depth: Path, tmp_path: Path) -> None:
    report = scored(model, depth, tmp_path / "report", Champion(3, model / "model.safetensors"))
    assert report.champion
    assert report.champion.version == 3
    assert report.champion.metrics == report.metrics
    assert not decision(report).passed
    assert decision(report).relative_improvement == 0
    assert (decision(report).num_frames, decision(report).num_groups) == (6, 3)
    low, high = report.intervals["whole_frame"]
    assert low < report.abs_rel < high


def test_each_net_is_fed_in_its_own_way(model: Path, depth: Path, tmp_path: Path) -> None:
    """The champion's scores are the ones it has on its own, whatever the challenger's conventions."""
    bgr = InputConfig(channels="bgr", mean=(103.5, 116.3, 123.7), std=(1.0, 1.0, 1.0))
    other = net(tmp_path / "other", 1, input=bgr, max_depth=40.0, input_scale=0.5)
    beside = scored(model, depth, tmp_path / "beside", Champion(1, other / "model.safetensors"))
    alone = scored(other, depth, tmp_path / "alone", None)
    assert beside.champion
    assert beside.champion.metrics == alone.metrics
    champion, own = beside.champion.metrics["whole_frame"]["abs_rel"], beside.metrics["whole_frame"]["abs_rel"]
    assert decision(beside).relative_improvement == pytest.approx(1 - own / champion)
    table = pq.read_table(tmp_path / "beside" / "per_image.parquet").to_pylist()
    assert {row["sequence"] for row in table} == {f"made_up/drive {index}" for index in range(3)}


def test_the_deciding_protocol_is_the_one_that_is_asked_for(model: Path, depth: Path, tmp_path: Path) -> None:
    rules = RULES.model_copy(update={"protocol": "garg_full_frame"})
    report = scored(model, depth, tmp_path / "report", None, rules)
    assert decision(report).protocol == "garg_full_frame"
    assert decision(report).abs_rel == report.metrics["garg_full_frame"]["abs_rel"]


def test_a_net_that_answers_nan_is_scored_nan_and_fails(model: Path, depth: Path, tmp_path: Path) -> None:
    broken = net(tmp_path / "broken", 0, broken=True)
    report = scored(broken, depth, tmp_path / "report", Champion(1, model / "model.safetensors"))
    assert math.isnan(report.abs_rel)
    assert all(math.isnan(value) for value in report.intervals["whole_frame"])
    assert report.champion
    assert np.isfinite(report.champion.metrics["whole_frame"]["abs_rel"])
    assert decision(report).reason == "its Abs Rel under whole_frame is not finite"


def test_a_champion_that_cannot_be_scored_does_not_stop_the_evaluation(
    model: Path, depth: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    report = scored(model, depth, tmp_path / "report", Champion(2, tmp_path / "damaged.safetensors"))
    assert report.champion is None
    assert not decision(report).passed
    assert "champion version 2 cannot be scored on these frames" in decision(report).reason
    cropping = FinetuneConfig(encoder_name="resnet18", init="kaiming_zero_gamma", decoder_channels=(8, 8, 8, 8))
    with write_artifact(tmp_path / "kb", "depth_net", inputs={}, parameters={}, licence="made up") as draft:
        save_depth_net(build_depth_net(cropping, None), draft.path / "model.safetensors")
    small = scored(model, depth, tmp_path / "small", Champion(2, tmp_path / "kb" / "model.safetensors"))
    assert "smaller than the KITTI benchmark crop" in decision(small).reason


def test_without_a_gate_there_is_no_decision(model: Path, depth: Path, tmp_path: Path) -> None:
    evaluate(model, depth, EVALUATE, tmp_path / "report")
    assert Report.model_validate_json((tmp_path / "report" / "report.json").read_text()).decision is None


@pytest.mark.parametrize(
    ("mode", "refusal", "promoted", "outcome"),
    [
        ("off", None, False, "not judged: tracking.promotion.mode is off"),
        ("report", None, False, "`make promote VERSION=4` makes it champion"),
        ("promote", None, True, "; now champion"),
        (
            "promote",
            "version 3 became champion meanwhile",
            False,
            "; not promoted: version 3 became champion meanwhile",
        ),
    ],
)
def test_the_mode_says_what_a_passed_gate_does(
    model: Path,
    depth: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    refusal: str | None,
    promoted: bool,
    outcome: str,
) -> None:
    asked: list[Any] = []

    def promote_instead_of(champion: int | None, version: int, *_: Any, **named: str) -> str | None:
        asked.append((champion, version, named["by"]))
        return refusal

    class Open(MlflowRun):
        def __init__(self) -> None:
            self.id, self.run_id = "0123", "0123"

        def __getattribute__(self, name: str) -> Any:
            return (lambda *_, **__: None) if name.startswith("log_") else super().__getattribute__(name)

    @contextmanager
    def champion(_: TrackingConfig) -> Iterator[None]:
        yield None

    monkeypatch.delenv("SIMIPU_PARENT_RUN_ID", raising=False)
    monkeypatch.setattr("simipu_core.tracking.promotion.champion", champion)
    monkeypatch.setattr("simipu_core.tracking.promotion.promote_instead_of", promote_instead_of)
    registered = ModelVersion(name="net", version=4, alias="challenger")
    monkeypatch.setattr(release_stage, "register", lambda *_, **__: registered)
    monkeypatch.setattr(release_stage, "set_outcome", lambda *_: None)
    made = release_stage.release(
        model,
        depth,
        EVALUATE,
        TrackingConfig(promotion=RULES.model_copy(update={"mode": mode})),
        tmp_path / "report",
        experiment="demo",
        run=Open(),
    )
    assert made.promoted is promoted
    assert outcome in made.outcome
    assert made.model.alias == ("champion" if promoted else "challenger")
    assert asked == ([(None, 4, "run 0123")] if mode == "promote" else [])
