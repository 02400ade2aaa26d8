"""Each component through its plain function: it unpacks what Kubeflow hands over and calls its stage."""

import importlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components import _default_image
from simipu_core.config import (
    AdamWConfig,
    EvaluateConfig,
    FinetuneConfig,
    PairConfig,
    PretrainConfig,
    PromotionConfig,
    TrackingConfig,
)
from simipu_core.errors import SimipuError
from simipu_core.evaluation.gate import Decision
from simipu_core.evaluation.report import Report
from simipu_core.experiment import load_experiment
from simipu_core.parameters import to_parameter
from simipu_core.stages.release import Release
from simipu_core.tracking.registry import ModelVersion
from simipu_core.tracking.run import Run, SilentRun
from tests.samples import write_report
from tests.sources import any_source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROOT = Path(__file__).parents[2]
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the steps that were tracked."""
    names: list[str] = []
    monkeypatch.setenv("SIMIPU_STEP", "its own name")

    @contextmanager
    def step(name: str, *, out: Path, is_last: bool = False) -> Iterator[Run]:
        assert out.parent == tmp_path
        assert is_last == (os.environ.get("SIMIPU_LAST_STEP") == "true")
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
    source = any_source(kind="kitti", drives_only=True)
    out = artifact(dsl.Dataset, tmp_path / "out")
    component("ingest")(uri="data#0", source=to_parameter(source), catalogue=out)
    ((given, named),) = calls
    assert given == (source, tmp_path / "out")
    assert named["root"] == "data#0"
    assert tracked == ["its own name"]


def test_pair(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    component("pair")(
        target="depth",
        catalogue=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(PairConfig()),
        shards=artifact(dsl.Dataset, tmp_path / "out"),
    )
    ((given, _),) = calls
    assert given == (tmp_path / "in", PairConfig(), "depth", tmp_path / "out")
    assert tracked == ["its own name"]


def test_pretrain(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    config = PretrainConfig(epochs=3, seed=7, image_optimizer=AdamWConfig(lr=0.5))
    component("pretrain")(
        pairs=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(config, without=["epochs", "image_optimizer.lr", "seed"]),
        epochs=3,
        lr=0.5,
        seed=7,
        encoder=artifact(dsl.Model, tmp_path / "out"),
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", config, tmp_path / "out")
    assert named["checkpoints"] == tmp_path / "checkpoints"
    assert tracked == ["its own name"]


@pytest.mark.parametrize("pretrained", [True, False])
def test_finetune(calls: Calls, tracked: list[str], tmp_path: Path, pretrained: bool) -> None:
    config = FinetuneConfig(epochs=2, seed=5, max_frames=4 if pretrained else None)
    component("finetune")(
        depth=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(config, without=["epochs", "schedule.max_lr", "max_frames", "seed"]),
        epochs=2,
        max_lr=1e-4,
        max_frames=4 if pretrained else 0,
        seed=5,
        model=artifact(dsl.Model, tmp_path / "out"),
        encoder=artifact(dsl.Model, tmp_path / "encoder") if pretrained else None,
    )
    ((given, named),) = calls
    assert given == (tmp_path / "in", config, tmp_path / "out")
    assert named["encoder"] == (tmp_path / "encoder" if pretrained else None)
    assert tracked == ["its own name"]


def test_the_control_starts_from_random_weights(calls: Calls, tracked: list[str], tmp_path: Path) -> None:
    config = FinetuneConfig(init="imagenet", init_file="weights.pth")
    component("finetune")(
        depth=artifact(dsl.Dataset, tmp_path / "in"),
        config=to_parameter(config, without=["epochs", "schedule.max_lr", "max_frames", "seed"]),
        epochs=24,
        max_lr=1e-4,
        max_frames=0,
        seed=0,
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
    expected = tracking.model_copy(
        update={"model_name": "other", "promotion": PromotionConfig(mode="off", max_abs_rel=0.25)}
    )
    monkeypatch.setenv("SIMIPU_LAST_STEP", "true")
    metrics = artifact(dsl.Metrics, tmp_path / "metrics")
    component("evaluate")(
        experiment="demo",
        model=artifact(dsl.Model, tmp_path / "model"),
        depth=artifact(dsl.Dataset, tmp_path / "depth"),
        config=to_parameter(EvaluateConfig()),
        tracking=to_parameter(tracking, without=["model_name", "promotion.mode"]),
        model_name="other",
        mode="off",
        report=artifact(dsl.Artifact, tmp_path / "report"),
        metrics=metrics,
        page=artifact(dsl.HTML, tmp_path / "page"),
        table=artifact(dsl.Markdown, tmp_path / "table"),
        control=artifact(dsl.Model, tmp_path / "control"),
    )
    ((given, named),) = seen
    assert given == (tmp_path / "model", tmp_path / "depth", EvaluateConfig(), expected, tmp_path / "report")
    assert (named["control"], named["experiment"]) == (tmp_path / "control", "demo")
    outcome = "did not pass the gate: b is worse"
    assert metrics.metadata == {"abs_rel a": 0.5, "promoted": 0, "gate": outcome}
    written = json.loads((tmp_path / "metrics").read_text(), parse_constant=pytest.fail)  # no NaN: it is not JSON
    assert written["abs_rel"] == {"a": 0.5, "b": None}
    assert written["model"] == {"name": "net", "version": 3, "alias": "challenger"}
    assert (written["promoted"], written["outcome"]) == (False, outcome)
    assert (written["decision"]["reason"], written["decision"]["champion_abs_rel"]) == ("b is worse", None)
    assert "Abs Rel 0.5000 under a" in (tmp_path / "page").read_text()
    assert "| model, a | 0.5000 |" in (tmp_path / "table").read_text()
    assert tracked == ["its own name"]


def check(changes: dict[str, Any], **keys: list[str]) -> None:
    row = to_parameter(load_experiment(ROOT / "experiments/reference/kitti_kitti.yaml"))
    component("check")(rows={"row": row}, keys=keys, **changes)


def test_check_reads_whole_experiments_with_what_the_form_holds(capsys: pytest.CaptureFixture[str]) -> None:
    check({"seed": 4, "finetune_max_frames": 0}, seed=["pretrain.seed"], finetune_max_frames=["finetune.max_frames"])
    assert capsys.readouterr().out == "row: settings are in order\n"


def test_check_refuses_what_would_stop_a_later_step() -> None:
    with pytest.raises(SystemExit) as ended:
        check({"finetune_max_lr": -1.0}, finetune_max_lr=["finetune.schedule.max_lr"])
    assert str(ended.value.code).startswith("error: row: `finetune.schedule.max_lr`: Input should be greater than 0")


def test_table_puts_reports_side_by_side_in_order(tracked: list[str], tmp_path: Path) -> None:
    given = {}
    for place, name in enumerate(("b", "a"), 1):
        folder = write_report(tmp_path / name, abs_rel=place / 10)
        given[f"report_{place}"] = artifact(dsl.Artifact, folder)
    outputs = {
        "results": artifact(dsl.Artifact, tmp_path / "results"),
        "page": artifact(dsl.HTML, tmp_path / "page"),
        "summary": artifact(dsl.Markdown, tmp_path / "summary"),
    }
    component("table")(rows=["b", "a"], **outputs, **given)
    assert tracked == ["its own name"]
    assert (tmp_path / "summary").read_text().splitlines()[2:] == [
        "| b | eigen_nyu (headline) | 3 | 0.1000 |",
        "| a | eigen_nyu (headline) | 3 | 0.2000 |",
    ]
    assert "<td>0.2000</td>" in (tmp_path / "page").read_text()


def test_a_users_problem_fails_the_task_in_one_line(
    tracked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ingest(*_: Any, **__: Any) -> None:
        raise SimipuError("data: no frames here; set root.")

    monkeypatch.setattr(importlib.import_module("simipu_core.stages.ingest"), "ingest", ingest)
    out = artifact(dsl.Dataset, tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        component("ingest")(uri="x", source=to_parameter(any_source(kind="kitti")), catalogue=out)
    assert ended.value.code == "error: data: no frames here; set root."
    assert tracked == ["its own name"]


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
