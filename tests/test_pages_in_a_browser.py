"""The pages that people read, in the widths of the panels that show them."""

import json
import shutil
import subprocess
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest

from simipu_core.config import PairConfig
from simipu_core.evaluation.metrics import METRICS
from simipu_core.evaluation.pages import html
from simipu_core.evaluation.report import Report
from simipu_core.stages.check import check
from simipu_core.stages.table import read_scores, table
from tests.data import files
from tests.samples import write_report
from tests.sources import any_source

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (300, 427, 1200)
"""Kubeflow's comparison of runs, its panel, and a window."""
SCORES = {name: dict.fromkeys(METRICS, 1236.2988) for name in ("garg_full_frame", "garg_kb_crop")}
MEASURE = """
onload = () => document.body.textContent = JSON.stringify(Array.from(frames, frame =>
  [frame.frameElement.title, frame.innerWidth, frame.document.documentElement.scrollWidth]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def evaluation(folder: Path) -> str:
    report = Report(
        headline="garg_full_frame",
        num_images=697,
        flip=True,
        metrics=SCORES,
        baselines={"scratch_control": SCORES, "constant_depth": SCORES},
        model_digest="",
        data_digest="",
    )
    cv2.imwrite(str(folder / "0.png"), np.zeros((40, 1500, 3), np.uint8))
    outcome = {"Version": "rather-a-long-name-of-a-model 123, challenger", "MLflow": f"http://{'x' * 90}"}
    return html(report, "improved_kitti_object_kitti_raw", outcome, folder)


def sweep(folder: Path) -> str:
    scores = read_scores(write_report(folder / "report", 0.25, "garg_full_frame")).model_copy(
        update={"metrics": SCORES}
    )
    table({f"improved_{name}_kitti_kitti": scores for name in ("imagenet", "scratch")}, folder / "table")
    return (folder / "table" / "table.html").read_text()


def check_of_raw_data(folder: Path) -> str:
    raw = folder / "with" / ("a_long_name_" * 8)
    training = files.kitti_object(raw, 3)
    files.write(training / "velodyne/000001.bin", b"123")
    check(any_source(kind="kitti_object", root=str(raw)), PairConfig(), folder / "check")
    return (folder / "check" / "check.html").read_text()


def test_pages_fit_the_panels_that_show_them(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    pages = {make.__name__: make(tmp_path) for make in (evaluation, sweep, check_of_raw_data)}
    frames = "".join(
        f'<iframe title="{name}" style="width: {width}px; border: 0" srcdoc="{escape(text)}"></iframe>'
        for name, text in pages.items()
        for width in WIDTHS
    )
    (tmp_path / "frames.html").write_text(f"{frames}<script>{MEASURE}</script>", encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/frames.html"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(shown[shown.index("[[") : shown.rindex("]]") + 2])
    assert [(name, width) for name, width, _ in found] == [(name, width) for name in pages for width in WIDTHS]
    assert [each for each in found if each[2] > each[1]] == []
