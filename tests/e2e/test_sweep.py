"""Two rows of a sweep, for real, on a tiny synthetic world: what they share runs once, one table holds both."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def test_a_sweep_of_two_rows(project: Path, python: Python) -> None:
    other = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    other["experiment"] = "other"
    other["finetune"]["sig_lambda"] = 0.5
    (project / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    sweep = ["local", "--sweep", "demo", "--sweep", "other.yaml", "--set", "finetune.scratch_control=false"]
    done = python("pipelines", *sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr

    (table,) = (project / "build" / "pipeline").glob("*/table/results")
    rows = json.loads((table / "table.json").read_text(encoding="utf-8"))
    protocols = [("tiny", "whole_frame"), ("tiny", "garg_full_frame")]
    protocols += [("other", "whole_frame"), ("other", "garg_full_frame")]
    assert [(row["experiment"], row["protocol"]) for row in rows] == protocols
    assert rows[0]["abs_rel"] != rows[2]["abs_rel"]
    with (table / "table.csv").open(encoding="utf-8") as file:
        assert [float(row["abs_rel"]) for row in csv.DictReader(file)] == [row["abs_rel"] for row in rows]
    assert f"{rows[2]['abs_rel']:.4f}" in done.stdout

    from mlflow.tracking import MlflowClient

    mlflow = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    (experiment,) = (found for found in mlflow.search_experiments() if found.name == "simipu")
    runs = mlflow.search_runs([experiment.experiment_id])
    steps = [run.data.tags["simipu.step"] for run in runs if "simipu.step" in run.data.tags]
    shared = ["ingest_pretrain_tiny", "pair_pretrain_tiny", "pretrain_tiny", "ingest_depth_tiny", "pair_depth_tiny"]
    own = [f"{step}_{row}" for step in ("finetune", "evaluate") for row in ("tiny", "other")]
    assert sorted(steps) == sorted([*shared, *own, "table"])
    (parent,) = (run for run in runs if "simipu.step" not in run.data.tags)
    assert parent.info.run_name.startswith("sweep ")
    assert (parent.info.status, parent.data.params["other.finetune.sig_lambda"]) == ("FINISHED", "0.5")
