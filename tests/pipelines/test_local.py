"""The real pipeline through kfp.local, with stages that do nothing: what runs again, and how it fails."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines import local
from pipelines.simipu import pipeline
from pipelines.tasks import OUTPUTS
from simipu_core.errors import SimipuError
from simipu_core.experiment import load_experiment
from simipu_core.tracking.pipeline_run import PipelineRun

ROOT = Path(__file__).parents[2]
ALL = {
    "ingest_pretrain",
    "pair_pretrain",
    "pretrain",
    "ingest_depth",
    "pair_depth",
    "finetune",
    "finetune_scratch",
    "evaluate",
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Execute = Callable[..., tuple[set[str], dict[str, Any]]]


class Parent:
    """Stands in for the MLflow run of the pipeline."""

    run_id = "parent"

    def __init__(self, history: str) -> None:
        self.history = history


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Execute:
    """Runs the pipeline; gives the steps that really ran, and the outputs."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("SIMIPU_PARENT_RUN_ID", "SIMIPU_CHECKPOINTS", "PYTHONUNBUFFERED", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is restored
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).with_name('fakes')}:{ROOT}")
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))

    def run(
        *overrides: str, history: str = "store", uri: str = "u#0", settings: str = ""
    ) -> tuple[set[str], dict[str, Any]]:
        log.write_text("")
        experiment = load_experiment(tmp_path / "params.yaml", list(overrides))
        parent = cast(PipelineRun, Parent(history))
        uris = {"data_depth": "d#0"} | ({"data_pretrain": uri} if experiment.finetune.needs_pretraining else {})
        outputs = local._execute(pipeline(experiment), parent, {**uris, "settings": settings})
        return set(log.read_text().split()), outputs

    return run


def test_only_what_changed_runs_again(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran, first = execute()
    assert ran == ALL
    shown = capsys.readouterr().out.splitlines()
    assert shown.pop(0) == "demo: settings are in order"
    assert {line.split()[0] for line in shown} == ALL  # the steps' progress, none of kfp's lines
    assert set(first) == set(OUTPUTS)

    ran, again = execute()
    assert ran == set()
    assert {name: artifact.path for name, artifact in again.items()} == {
        name: artifact.path for name, artifact in first.items()
    }
    assert execute("finetune.sig_lambda=0.5")[0] == {"finetune", "finetune_scratch", "evaluate"}
    assert execute("evaluate.flip=false")[0] == {"evaluate"}
    assert execute(settings="finetune.sig_lambda=0.5")[0] == set()  # the same sections, however they came about
    assert execute(settings="evaluate.flip=false finetune.sig_lambda=0.25")[0] == {
        "finetune",
        "finetune_scratch",
        "evaluate",
    }
    assert execute(settings="tracking.model_name=another")[0] == {"evaluate"}
    assert execute(uri="u#1")[0] == {"ingest_pretrain", "pair_pretrain", "pretrain", "finetune", "evaluate"}

    monkeypatch.setenv("FAKE_FAILURE", "ingest")
    assert execute()[0] == set()
    with pytest.raises(SimipuError, match="mend it"):  # a new tracking store knows none of those models
        execute(history="another store")


def test_a_run_without_pretraining(execute: Execute) -> None:
    ran, made = execute("finetune.init=kaiming_zero_gamma")
    assert ran == {"ingest_depth", "pair_depth", "finetune", "evaluate"}
    assert set(made) == {"depth_catalogue", "depth", "model", "report", "metrics"}


def test_settings_that_are_refused_stop_the_run_at_once(execute: Execute) -> None:
    with pytest.raises(SimipuError, match=r"`finetune\.epochs`: Input should be greater than or equal to 0"):
        execute(settings="finetune.epochs=-1")
    assert Path(os.environ["FAKE_LOG"]).read_text() == ""


def test_a_failing_step_gives_the_cause(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILURE", "pair_pretrain")
    with pytest.raises(SimipuError) as caught:
        execute()
    assert str(caught.value) == "pair_pretrain: nothing fits; mend it."
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_a_signal_ends_is_killed_and_tells_how_to_go_on(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[tuple[str, ...]] = []
    parent = SimpleNamespace(fail=lambda *words: ended.append(words), finish=lambda: ended.append(("finished",)))
    monkeypatch.setattr(local, "start_parent", lambda _: parent)
    with pytest.raises(SystemExit) as caught, local._stoppable(), local._parent("demo"):
        signal.raise_signal(sent)
    assert caught.value.code == 128 + sent
    assert ended == [("stopped by a signal.", "KILLED")]
    assert capfd.readouterr().err == (
        f"error: stopped by {sent.name}.\nThe same command goes on from here: finished steps come from the cache, an "
        "unfinished training starts from its last checkpoint.\n"
    )


def test_a_sweep_runs_once_what_its_rows_share(
    execute: Execute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = load_experiment(tmp_path / "params.yaml", ["finetune.scratch_control=false"])
    other = load_experiment(
        tmp_path / "params.yaml", ["experiment=other", "finetune.scratch_control=false", "finetune.sig_lambda=0.5"]
    )
    rows = [shared, other]
    arguments = {"data": {"data/raw": "u#0"}}
    log = Path(os.environ["FAKE_LOG"])
    log.write_text("")
    made = local._execute(pipeline(rows), cast(PipelineRun, Parent("store")), arguments)
    common = {"ingest_pretrain", "pair_pretrain", "pretrain", "ingest_depth", "pair_depth"}
    own = {f"{step}_{name}" for step in ("finetune", "evaluate") for name in ("demo", "other")}
    assert sorted(log.read_text().split()) == sorted({f"{step}_demo" for step in common} | own | {"table"})
    assert rows_of(made) == ["| demo | &nbsp;0.5000 |", "| other | &nbsp;0.5000 |"]

    log.write_text("")
    monkeypatch.setenv("FAKE_ABS_REL", "0.25")  # a new image finds other scores
    changed = local._execute(
        pipeline(
            [shared, rows[1].model_copy(update={"evaluate": rows[1].evaluate.model_copy(update={"flip": False})})]
        ),
        cast(PipelineRun, Parent("store")),
        arguments,
    )
    assert sorted(log.read_text().split()) == ["evaluate_other", "table"]
    assert rows_of(changed) == ["| demo | &nbsp;0.5000 |", "| other | &nbsp;0.2500 |"]


def rows_of(made: dict[str, Any]) -> list[str]:
    return (Path(made["results"].path) / "table.md").read_text().splitlines()[4:]
