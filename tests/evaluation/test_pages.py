import base64
from pathlib import Path

import pytest

from simipu_core.artifacts import read_manifest
from simipu_core.errors import SimipuError
from simipu_core.evaluation.pages import html, html_table, markdown, markdown_table
from simipu_core.evaluation.report import Report
from simipu_core.stages.table import read_scores, table
from tests.samples import write_report

REPORT = Report(
    headline="garg",
    num_images=7,
    flip=True,
    metrics={"garg": {"abs_rel": 0.12345, "rmse": 4.0}, "whole": {"abs_rel": 0.2, "rmse": 5.0}},
    baselines={"constant_depth": {"garg": {"abs_rel": 0.5, "rmse": 9.0}}},
    model_digest="",
    data_digest="",
)


def test_markdown_holds_every_score_under_its_metrics_name() -> None:
    assert markdown(REPORT, "demo").splitlines() == [
        "# demo",
        "",
        "Abs Rel 0.1235 under garg (7 images, averaged with the mirrored image).",
        "",
        "|  | abs rel ↓ | rmse ↓ |",
        "|---|---:|---:|",
        "| model, garg | 0.1235 | 4.0000 |",
        "| model, whole | 0.2000 | 5.0000 |",
        "| constant depth, garg | 0.5000 | 9.0000 |",
    ]


def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "00001.png").write_bytes(b"two")
    (tmp_path / "00000.png").write_bytes(b"one")
    text = html(REPORT, "a < b", tmp_path)
    places = [text.index(f"base64,{base64.b64encode(data).decode()}") for data in (b"one", b"two")]
    assert places == sorted(places)
    assert "<h1>a &lt; b</h1>" in text
    assert "src=" not in text.replace('src="data:', "")
    assert "Image, measured depth" not in html(REPORT, "x", tmp_path / "none")


def test_cells_cannot_break_a_table() -> None:
    assert markdown_table([["a"], ["x|y"]]).splitlines()[-1] == "| x\\|y |"
    assert "<td>&lt;b&gt;</td>" in html_table([["a"], ["<b>"]])


def test_a_table_leaves_scores_empty_that_a_row_does_not_have(tmp_path: Path) -> None:
    first, second = write_report(tmp_path / "1", 0.1), write_report(tmp_path / "2", 0.2, "garg_kb_crop", rmse=3.0)
    made = table({"a": read_scores(first), "b": read_scores(second)}, tmp_path / "table")
    assert made.counts == {"experiments": 2, "rows": 2}
    assert (tmp_path / "table/table.csv").read_text().splitlines() == [
        "experiment,protocol,images,abs_rel,rmse",
        "a,eigen_nyu,3,0.1,",
        "b,garg_kb_crop,3,0.2,3.0",
    ]
    assert "| a | eigen_nyu (headline) | 3 | 0.1000 |  |" in (tmp_path / "table/table.md").read_text()
    assert read_manifest(tmp_path / "table", "table").inputs.keys() == {"a", "b"}
    with pytest.raises(SimipuError, match="not an artifact"):
        read_scores(tmp_path)
