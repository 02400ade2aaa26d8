import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from pipelines.summary import Step, Summary
from simipu_core.tracking.registry import ModelVersion

SUMMARY = Summary(
    experiment="demo",
    protocol="garg_full_frame",
    abs_rel=0.125,
    metrics={"garg_full_frame": {"abs_rel": 0.125}, "whole_frame": {"abs_rel": 0.25}},
    baselines={
        "constant_depth": {"garg_full_frame": {"abs_rel": 0.5}, "whole_frame": {"abs_rel": 0.625}},
        "scratch_control": {"garg_full_frame": {"abs_rel": 0.1875}, "whole_frame": {"abs_rel": 0.375}},
    },
    model=ModelVersion(name="simipu-depth", version=7, alias="challenger"),
    mlflow_run_id="abc",
    mlflow_url="http://127.0.0.1:5000/#/experiments/1/runs/abc",
    seconds=23.0,
    steps={"pretrain": Step(seconds=0.0, cached=True), "finetune": Step(seconds=12.34, cached=False)},
)


def test_the_file_has_the_promised_keys(tmp_path: Path) -> None:
    file = tmp_path / "build" / "summary.json"
    SUMMARY.write(file)
    values = json.loads(file.read_text(encoding="utf-8"))
    assert {"experiment", "abs_rel", "metrics", "baselines", "model", "mlflow_run_id", "steps"} <= set(values)
    assert values["abs_rel"] == 0.125
    assert values["model"] == {"name": "simipu-depth", "version": 7, "alias": "challenger"}
    assert values["steps"]["finetune"] == {"seconds": 12.34, "cached": False}
    assert [path.name for path in file.parent.iterdir()] == ["summary.json"]


def test_the_table_shows_scores_beside_their_reference_lines() -> None:
    screen = StringIO()
    SUMMARY.show(Console(file=screen, width=100))
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in screen.getvalue().splitlines()
    ]
    assert ["protocol", "model", "constant depth", "scratch control"] in rows
    assert ["garg_full_frame (headline)", "0.1250", "0.5000", "0.1875"] in rows
    assert ["whole_frame", "0.2500", "0.6250", "0.3750"] in rows
    assert ["pretrain", "cached"] in rows
    assert ["finetune", "12.3"] in rows
    assert "simipu-depth version 7, alias challenger" in screen.getvalue()
    assert "make mlflow, then http://127.0.0.1:5000/#/experiments/1/runs/abc" in screen.getvalue()
