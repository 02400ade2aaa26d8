"""All five steps, for real, on a tiny synthetic world: run, run again, change a setting, break something."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simipu_core.data.images import decode_depth, encode_png
from tests.e2e.conftest import Python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

STEPS = [
    "raw",
    "ingest_pretrain",
    "pair_pretrain",
    "pretrain",
    "ingest_depth",
    "pair_depth",
    "finetune",
    "finetune_scratch",
    "evaluate",
]


def pipeline(project: Path, python: Python, *arguments: str) -> dict[str, Any]:
    done = python("pipelines", "local", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    summary: dict[str, Any] = json.loads((project / "build" / "summary.json").read_text(encoding="utf-8"))
    assert f"version {summary['model']['version']}, alias challenger" in done.stdout
    return summary


@pytest.fixture(scope="module")
def first(project: Path, python: Python) -> dict[str, Any]:
    """Summary of the first run."""
    return pipeline(project, python)


def cached(summary: dict[str, Any]) -> set[str]:
    return {name for name, step in summary["steps"].items() if step["cached"]}


def client(project: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")


def test_the_summary_tells_all(first: dict[str, Any]) -> None:
    assert first["experiment"] == "tiny"
    assert first["abs_rel"] == first["metrics"]["whole_frame"]["abs_rel"]
    assert np.isfinite(first["abs_rel"])
    assert set(first["metrics"]) == {"whole_frame", "garg_full_frame"}
    assert set(first["baselines"]) == {"constant_depth", "scratch_control"}
    assert first["model"] == {"name": "simipu-depth", "version": 1, "alias": "challenger"}
    assert list(first["steps"]) == STEPS
    assert cached(first) == set()
    assert all(step["seconds"] > 0 for step in first["steps"].values())


def test_raw_data_is_versioned(project: Path, first: dict[str, Any]) -> None:
    assert first
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    assert "data/raw" in lock
    assert list((project / "data" / "remote" / "files" / "md5").rglob("*.dir"))


def test_mlflow_shows_the_whole_run(project: Path, first: dict[str, Any]) -> None:
    mlflow = client(project)
    parent = mlflow.get_run(first["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["whole_frame/abs_rel"] == pytest.approx(first["abs_rel"])
    assert parent.data.params["finetune.encoder_name"] == "resnet18"
    runs = mlflow.search_runs([parent.info.experiment_id])
    children = {
        run.data.tags["simipu.step"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(children) == set(STEPS) - {"raw"}
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children["pretrain"].inputs.dataset_inputs
    assert mlflow.list_artifacts(children["evaluate"].info.run_id, "panels")
    for name in ("ingest_pretrain", "ingest_depth"):
        assert [file.path for file in mlflow.list_artifacts(children[name].info.run_id)] == ["check.html"]


def test_the_registered_model_predicts(project: Path, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlruns/mlflow.db")
    served = mlflow.pyfunc.load_model(f"models:/simipu-depth/{first['model']['version']}")
    picture = base64.b64encode(encode_png(np.full((64, 192, 3), 127, np.uint8))).decode("ascii")
    (answer,) = served.predict(pd.DataFrame({"image": [picture]}))
    depth = decode_depth(base64.b64decode(answer["depth"]), answer["scale"])
    assert depth.shape == (64, 192)
    assert ((depth > 0) & (depth <= 80)).all()


def test_unchanged_steps_come_from_the_cache(project: Path, python: Python, first: dict[str, Any]) -> None:
    again = pipeline(project, python)
    assert cached(again) == set(STEPS) - {"raw"}
    assert again["mlflow_run_id"] != first["mlflow_run_id"]
    assert (again["abs_rel"], again["model"]) == (first["abs_rel"], first["model"])


def test_a_change_reruns_only_what_depends_on_it(project: Path, python: Python, first: dict[str, Any]) -> None:
    changed = pipeline(project, python, "--set", "finetune.sig_lambda=0.5")
    assert set(STEPS) - cached(changed) == {"raw", "finetune", "finetune_scratch", "evaluate"}
    assert changed["model"]["version"] > first["model"]["version"]
    assert changed["abs_rel"] != first["abs_rel"]


def test_a_problem_ends_in_one_sentence(project: Path, python: Python, first: dict[str, Any]) -> None:
    before = (project / "build" / "summary.json").read_bytes()
    done = python("pipelines", "local", "--set", "depth_data.split=none")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "the split leaves no eval frame" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (project / "build" / "summary.json").read_bytes() == before
    experiment = client(project).get_run(first["mlflow_run_id"]).info.experiment_id
    runs = client(project).search_runs([experiment])  # the newest first
    latest = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert latest.info.status == "FAILED"
    assert "the split leaves no eval frame" in latest.data.tags["simipu.error"]


def test_dvc_packs_the_shards(project: Path, python: Python, first: dict[str, Any]) -> None:
    assert first
    done = python("dvc", "repro", "pairs@demo", "depth@demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Stage 'raw' didn't change" in done.stdout
    for shards in ("pretrain", "depth"):
        assert (project / "data" / "shards" / "demo" / shards / "manifest.json").is_file()
    again = python("dvc", "status", "pairs@demo", "depth@demo")
    assert "up to date" in again.stdout
