"""Each component through its plain function: it unpacks what Kubeflow hands over and calls its stage."""

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components import _default_image
from simipu_core.config import (
    EvaluateConfig,
    FinetuneConfig,
    PairConfig,
    PretrainConfig,
    PromotionConfig,
    SourceConfig,
    TrackingConfig,
)
from simipu_core.errors import SimipuError
from simipu_core.evaluation.gate import Decision
from simipu_core.evaluation.report import Report
from simipu_core.parameters import to_parameter
from simipu_core.stages.release import Release
from simipu_core.tracking.registry import ModelVersion
from simipu_core.tracking.run import Run, SilentRun

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the steps that were tracked."""
    names: list[str] = []

    @contextmanager
    def step(name: str, *, out: Path, is_last: bool = False) -> Iterator[Run]:
        assert out.parent == tmp_path
        assert is_last == (name == "evaluate")
        names.append(name)
        yield SilentRun()

    monkeypatch.setattr("simipu_core.tracking.mlflow_run.step", step)
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return names


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the stages were called with."""
    seen: Calls = []
    for stage in ("ingest", "pair", "pretrain", "finetune", "evaluate"):
        module = importlib.import_module(f"simipu_core.stages.{stage}")
        monkeypatch.setattr(module, stage, lambda *given, **named: seen.append((given, named)))
    return seen


def component(name: str) -> Any:
    return getattr(importlib.import_module(f"components.{name}.component"), name).python_func


def artifact(kind: type[dsl.Artifact], path: Path) -> dsl.Artifact:
    return kind(uri=str(path))


def test_ingest(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    source = SourceConfig(kind="kitti", drives_only=True)
    out = artifact(dsl.Dataset, tmp_path / "out")
    component("ingest")(step="ingest_depth", uri="data#0", source=to_parameter(source), catalogue=out)
    ((given, named),) = calls
    assert given == (source, tmp_path / "out")
    assert named["root"] == "data#0"
    assert tracked == ["ingest_depth"]


def test_pair(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    component("pair")(
        step="pair_depth",
        target="depth",
        catalogue=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(PairConfig()),
        shards=artifact(dsl.Dataset, tmp_path / "out"),
    )
    ((given, _),) = calls
    assert given == (tmp_path / "in", PairConfig(), "depth", tmp_path / "out")
    assert tracked == ["pair_depth"]


def test_pretrain(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    component("pretrain")(
        pairs=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(PretrainConfig()),
        encoder=artifact(dsl.Model, tmp_path / "out"),
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", PretrainConfig(), tmp_path / "out")
    assert named["checkpoints"] == tmp_path / "checkpoints"
    assert tracked == ["pretrain"]


@pytest.mark.parametrize("pretrained", [True, False])
def test_finetune(calls: Calls, tracked: list[str], tmp_path: Path, pretrained: bool) -> None:
    config = FinetuneConfig(max_frames=None)
    component("finetune")(
        step="finetune",
        depth=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(config),
        model=artifact(dsl.Model, tmp_path / "out"),
        encoder=artifact(dsl.Model, tmp_path / "encoder") if pretrained else None,
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", config, tmp_path / "out")
    assert named["encoder"] == (tmp_path / "encoder" if pretrained else None)
    assert tracked == ["finetune"]


def test_the_control_starts_from_random_weights(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    config = FinetuneConfig(init="imagenet", init_file="weights.pth")
    component("finetune")(
        step="finetune_scratch",
        depth=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(config),
        model=artifact(dsl.Model, tmp_path / "out"),
        init="kaiming_zero_gamma",
    )
    ((given, named),) = calls
    assert given[1] == FinetuneConfig(init="kaiming_zero_gamma")
    assert named["encoder"] is None


def test_evaluate_scores_registers_and_decides(
    tracked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decision = Decision(passed=False, reason="b is worse", protocol="a", abs_rel=0.5, champion_abs_rel=math.nan)
    report = Report(
        headline="a",
        num_images=1,
        flip=False,
        metrics={"a": {"abs_rel": 0.5}, "b": {"abs_rel": math.nan}},
        baselines={},
        model_digest="",
        data_digest="",
        decision=decision,
    )
    version = ModelVersion(name="net", version=3, alias="challenger")
    made = Release(report=report, model=version, promoted=False, outcome="did not pass the gate: b is worse")
    seen: Calls = []

    def release(*given: Any, **named: Any) -> Release:
        seen.append((given, named))
        return made

    monkeypatch.setattr("simipu_core.stages.release.release", release)
    tracking = TrackingConfig(promotion=PromotionConfig(mode="promote", max_abs_rel=0.25))
    metrics = artifact(dsl.Metrics, tmp_path / "metrics")
    component("evaluate")(
        experiment="demo",
        model=artifact(dsl.Model, tmp_path / "model"),
        depth=artifact(dsl.Dataset, tmp_path / "depth"),
        config=to_parameter(EvaluateConfig()),
        tracking=to_parameter(tracking),
        report=artifact(dsl.Artifact, tmp_path / "report"),
        metrics=metrics,
        control=artifact(dsl.Model, tmp_path / "control"),
    )
    ((given, named),) = seen
    assert given == (tmp_path / "model", tmp_path / "depth", EvaluateConfig(), tracking, tmp_path / "report")
    assert (named["control"], named["experiment"]) == (tmp_path / "control", "demo")
    outcome = "did not pass the gate: b is worse"
    assert metrics.metadata == {"abs_rel a": 0.5, "promoted": 0, "gate": outcome}
    written = json.loads((tmp_path / "metrics").read_text(), parse_constant=pytest.fail)  # no NaN: it is not JSON
    assert written["abs_rel"] == {"a": 0.5, "b": None}
    assert written["model"] == {"name": "net", "version": 3, "alias": "challenger"}
    assert (written["promoted"], written["outcome"]) == (False, outcome)
    assert (written["decision"]["reason"], written["decision"]["champion_abs_rel"]) == ("b is worse", None)
    assert tracked == ["evaluate"]


def test_a_users_problem_fails_the_task_in_one_line(
    tracked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ingest(*_: Any, **__: Any) -> None:
        raise SimipuError("data: no frames here; set root.")

    monkeypatch.setattr(importlib.import_module("simipu_core.stages.ingest"), "ingest", ingest)
    out = artifact(dsl.Dataset, tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        component("ingest")(step="ingest_depth", uri="x", source=to_parameter(SourceConfig()), catalogue=out)
    assert ended.value.code == "error: data: no frames here; set root."
    assert tracked == ["ingest_depth"]


def test_the_default_image_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "simipu_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("simipu_core.__file__", str(package / "__init__.py"))
    before = _default_image()
    assert "python" in before  # kfp.local warns otherwise
    assert _default_image() == before
    (package / "new.py").write_text("x = 1")
    assert _default_image() != before
