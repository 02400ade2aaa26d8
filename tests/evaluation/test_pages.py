import base64
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from simipu_core.artifacts import read_manifest
from simipu_core.errors import SimipuError
from simipu_core.evaluation.pages import html, html_table, markdown, markdown_table, plain
from simipu_core.evaluation.report import Report
from simipu_core.stages.table import read_scores, table
from tests.samples import write_report

REPORT = Report(
    headline="garg_crop",
    num_images=7,
    flip=True,
    metrics={"garg_crop": {"abs_rel": 0.12345, "rmse": 4.0}, "whole": {"abs_rel": 0.2, "rmse": 5.0}},
    baselines={
        "scratch_control": {"garg_crop": {"abs_rel": 0.25}},
        "constant_depth": {"garg_crop": {"abs_rel": 0.5, "rmse": 9.0}},
    },
    model_digest="",
    data_digest="",
    intervals={"garg_crop": (0.1, 0.15)},
)
OUTCOME = {"Gate": "passed: `make promote`", "MLflow": "http://here:5000/#/experiments/1/runs/a_b"}


def test_markdown_says_first_what_matters_and_then_holds_every_score() -> None:
    assert markdown(REPORT, "a_demo_1", OUTCOME).splitlines() == [
        "# a\\_demo\\_1",
        "",
        "- **Abs Rel:** 0.1235, 95% interval 0.1000–0.1500",
        "- **Scratch control:** 0.2500",
        "- **Constant depth:** 0.5000",
        "- **Gate:** passed: \\`make promote\\`",
        "- **MLflow:** [open](http://here:5000/#/experiments/1/runs/a_b)",
        "- **Scored:** garg\\_crop, 7 images, averaged with the mirrored image",
        "",
        "## garg\\_crop",
        "",
        "|  | &nbsp;model | &nbsp;scratch control | &nbsp;constant depth |",
        "|---|---:|---:|---:|",
        "| abs rel\N{NO-BREAK SPACE}↓ | &nbsp;0.1235 | &nbsp;0.2500 | &nbsp;0.5000 |",
        "| rmse\N{NO-BREAK SPACE}↓ | &nbsp;4.0000 | &nbsp; | &nbsp;9.0000 |",
        "",
        "## whole",
        "",
        "|  | &nbsp;model |",
        "|---|---:|",
        "| abs rel\N{NO-BREAK SPACE}↓ | &nbsp;0.2000 |",
        "| rmse\N{NO-BREAK SPACE}↓ | &nbsp;5.0000 |",
    ]


def test_markdown_shows_text_as_it_is() -> None:
    text = r"a_b_c *d* [e](f) <g> `h` ~i~ \\j | k"
    _, paragraph, _ = MarkdownIt().enable("strikethrough").parse(plain(text))
    parts = paragraph.children or []
    assert {part.type for part in parts} <= {"text", "text_special"}
    assert "".join(part.content for part in parts) == text


def test_a_page_shows_addresses_as_text(tmp_path: Path) -> None:
    text = html(REPORT, "x", OUTCOME, tmp_path)
    assert "<b>MLflow:</b> http://here:5000/#/experiments/1/runs/a_b<" in text
    assert "<a " not in text
    places = [text.index(word) for word in ("Abs Rel", "Scratch control", "Gate", "<table")]
    assert places == sorted(places)


def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "00001.png").write_bytes(b"two")
    (tmp_path / "00000.png").write_bytes(b"one")
    text = html(REPORT, "a < b", {}, tmp_path)
    places = [text.index(f"base64,{base64.b64encode(data).decode()}") for data in (b"one", b"two")]
    assert places == sorted(places)
    assert "<h1>a &lt; b</h1>" in text
    assert "src=" not in text.replace('src="data:', "")
    assert "Image, measured depth" not in html(REPORT, "x", {}, tmp_path / "none")


def test_cells_cannot_break_a_table() -> None:
    assert markdown_table([["a"], ["x|y"]]).splitlines()[-1] == "| x\\|y |"
    assert "<td>&lt;b&gt;</td>" in html_table([["a"], ["<b>"]])
    assert "<td>a_<wbr>b</td>" in html_table([["a"], ["a_b"]])


def test_a_table_leaves_scores_empty_that_a_row_does_not_have(tmp_path: Path) -> None:
    first, second = write_report(tmp_path / "1", 0.1), write_report(tmp_path / "2", 0.2, "garg_kb_crop", rmse=123.0)
    made = table({"a": read_scores(first), "b": read_scores(second)}, tmp_path / "table")
    assert made.counts == {"experiments": 2, "rows": 2}
    assert (tmp_path / "table/table.csv").read_text().splitlines() == [
        "experiment,protocol,images,abs_rel,rmse",
        "a,eigen_nyu,3,0.1,",
        "b,garg_kb_crop,3,0.2,123.0",
    ]
    assert (tmp_path / "table/table.md").read_text().splitlines() == [
        "## eigen\\_nyu (headline), 3 images",
        "",
        "|  | &nbsp;abs rel\N{NO-BREAK SPACE}↓ |",
        "|---|---:|",
        "| a | &nbsp;0.1000 |",
        "",
        "## garg\\_kb\\_crop (headline), 3 images",
        "",
        "|  | &nbsp;abs rel\N{NO-BREAK SPACE}↓ | &nbsp;rmse\N{NO-BREAK SPACE}↓ |",
        "|---|---:|---:|",
        "| b | &nbsp;0.2000 | &nbsp;123.0 |",
    ]
    assert read_manifest(tmp_path / "table", "table").inputs.keys() == {"a", "b"}
    with pytest.raises(SimipuError, match="not an artifact"):
        read_scores(tmp_path)
