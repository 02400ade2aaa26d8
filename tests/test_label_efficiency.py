"""The study of few labels: its order, its choices, its table, and a tiny run."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.label_efficiency import domains, frames
from benchmarks.label_efficiency.__main__ import run, show
from benchmarks.label_efficiency.probe import agreement, fit
from benchmarks.label_efficiency.records import Cell, Cost, Records, Trial
from benchmarks.label_efficiency.runs import Workplace, missing, run_job
from benchmarks.label_efficiency.studies import STUDIES, Column, Job, Row, Study, waves
from benchmarks.label_efficiency.table import markdown, table
from simipu_core.config import SyntheticConfig
from simipu_core.data.sources.kitti import Kitti
from simipu_core.errors import SimipuError

ROWS = (
    Row("default_init", "random", ("finetune.init=torch_default",), "nothing"),
    Row("decoder", "encoder and decoder", ("pretrain.objective=lidar_depth",), keeps_decoder=True),
    Row("encoder", "encoder", ("pretrain.objective=lidar_depth",)),
    Row("ceiling", "dense", ("pretrain.objective=lidar_depth",), "dense", keeps_decoder=True),
)
DEFAULT, DECODER, ENCODER, CEILING = ROWS
LABELS, NONE = Column("labels_8", "8 labels", 8, 1), Column("labels_0", "no labels")
CLASSES = Column("classes", "classes", asks="classes")
ROOMS = Column("rooms_8", "rooms", 8, 1, "rooms", ("evaluate.protocols=[whole_frame]",))
STUDY = Study(
    "demo",
    (
        "synthetic.object_frames=16",
        "synthetic.drives=6",
        "synthetic.frames_per_drive=2",
        "synthetic.lidar_points=8000",
        "depth_data.train_share=0.67",
        "pretrain.epochs=1",
        "pretrain.workers=0",
        "evaluate.panels=0",
    ),
    ROWS,
    main=(LABELS, NONE),
    further=(CLASSES, ROOMS),
    seeds=2,
    scales=(1.0, 0.1),
    validation=("synthetic.seed=1", "synthetic.object_frames=0", "synthetic.drives=3", "depth_data.train_share=0.3"),
    domain_frames=(8, 3),
    notes=("a note",),
)


def cell(row: Row, column: Column, seed: int, errors: list[float], study: Study = STUDY) -> Cell:
    return Cell(
        row=row.name,
        column=column.name,
        seed=seed,
        recipe=study.recipe(row, column),
        revision="r",
        unit="drive",
        units=tuple(f"d{number}" for number in range(len(errors))),
        frames=(2,) * len(errors),
        abs_rel=tuple(errors),
        cost=Cost(pretraining_passes=16, pretraining_seconds=60, finetuning_seconds=30 * (seed + 1)),
    )


def trial(row: Row, scale: float, abs_rel: float) -> Trial:
    recipe = STUDY.recipe(row, LABELS)
    return Trial(
        row=row.name, encoder_lr_scale=scale, recipe=recipe, revision="r", abs_rel=abs_rel, finetuning_seconds=1
    )


def test_the_first_seed_and_the_main_columns_come_first() -> None:
    order = [[(job.seed, row.name, column.name) for job in wave for row, column in job.cells(STUDY)]
             for wave in waves(STUDY)]  # fmt: skip
    first = [
        (0, "default_init", "labels_8"),
        (0, "decoder", "labels_8"),
        (0, "encoder", "labels_8"),
        (0, "decoder", "labels_0"),
        (0, "ceiling", "labels_8"),
        (0, "ceiling", "labels_0"),
    ]
    assert order[0] == first
    assert order[1] == [(1, row, column) for _, row, column in first]
    assert order[2] == [
        (seed, row, "classes") for seed in (0, 1) for row in ("default_init", "decoder", "ceiling")
    ]  # the encoder is the decoder row's own
    assert {column for _, _, column in order[3]} == {"rooms_8"}


@pytest.mark.parametrize("name", list(STUDIES))
def test_all_rows_of_a_study_learn_from_as_many_images(name: str) -> None:
    study = STUDIES[name]
    assert len({row.name for row in study.rows}) == len(study.rows)
    assert len({column.name for column in study.columns}) == len(study.columns)
    budgets = set()
    for row in study.rows:
        experiment = study.experiment_of(row, seed=3)
        assert (experiment.pretrain.seed, experiment.finetune.seed) == (3, 3)
        assert experiment.finetune.needs_pretraining == (row.learns_from != "nothing")
        assert experiment.finetune.encoder_lr_scale == 1  # the study's to choose
        budgets.add((experiment.pretrain.epochs, experiment.pretrain.batch_size, experiment.finetune.batch_size))
        assert experiment.pretrain.image_encoder.init == ("torch_default" if name != "ablations" else _ZEROED)
    assert len(budgets) == 1
    for column in study.columns:
        steps = column.labels // experiment.finetune.batch_size * column.epochs
        assert steps in ((0, 600, 608) if name != "real" else (0, 200))
        assert column.frames in frames.MAKERS or column.labels <= study.domain_frames[0]


_ZEROED = "kaiming_zero_gamma"


def test_validation_frames_are_not_those_that_are_scored() -> None:
    synthetic, real = STUDIES["synthetic"], STUDIES["real"]
    assert synthetic.shared(synthetic.validation).synthetic.seed != synthetic.shared().synthetic.seed
    scored = real.shared().depth_data
    assert isinstance(scored, Kitti)
    assert scored.drives_only
    assert real.shared(real.validation).depth_data.kind == "kitti_object"
    assert real.shared().pretrain_data.split == real.shared(real.validation).depth_data.split == "within_sequence"
    assert any("LEAKAGE" in note for note in real.notes)


def test_the_scale_is_the_best_on_validation_once_all_are_tried(tmp_path: Path) -> None:
    records = Records(STUDY, tmp_path)
    records.keep(trial(DECODER, 1.0, 0.3))
    assert records.scale(DECODER) is None
    records.keep(trial(DECODER, 0.1, 0.2))
    records.keep(cell(DECODER, LABELS, 0, [0.9]))  # what the test frames say does not count
    assert records.scale(DECODER) == 0.1
    for scale in STUDY.scales:
        records.keep(trial(ENCODER, scale, 0.25))
    assert records.scale(ENCODER) == 1.0


def test_what_is_there_is_not_done_again(tmp_path: Path) -> None:
    records, job = Records(STUDY, tmp_path), Job((DECODER, ENCODER), 0, (LABELS, NONE))
    records.keep(cell(DECODER, LABELS, 0, [0.2]))
    assert missing(records, job) == [(ENCODER, LABELS), (DECODER, NONE)]
    for row, column in ((ENCODER, LABELS), (DECODER, NONE)):
        records.keep(cell(row, column, 0, [0.2]))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    assert run_job(Workplace(STUDY, tmp_path / "build", tmp_path), job) == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == before


def test_nothing_begins_after_the_deadline(tmp_path: Path) -> None:
    place = Workplace(STUDY, tmp_path / "build", tmp_path / "found")
    assert run_job(place, Job((DECODER, ENCODER), 0, (LABELS, NONE)), deadline=time.time() - 1) == 3
    assert not place.results.exists()


def test_cells_of_another_recipe_do_not_count(tmp_path: Path) -> None:
    records = Records(STUDY, tmp_path)
    records.keep(cell(DECODER, LABELS, 0, [0.2]).model_copy(update={"recipe": "old"}))
    assert records.cell(DECODER, LABELS, 0) is None
    assert records.outdated() == 1
    assert table(records)["columns"][0]["rows"] == []


def test_a_broken_cell_is_named(tmp_path: Path) -> None:
    records = Records(STUDY, tmp_path)
    records.keep(cell(DECODER, LABELS, 0, [0.2]))
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:40])
    with pytest.raises(SimipuError, match=r"decoder-0\.json: is no Cell"):
        table(records)


def test_the_table_pairs_seeds_and_drives(tmp_path: Path) -> None:
    """A row that is a tenth better everywhere is so without doubt, however far seeds and drives are apart."""
    records, rng = Records(STUDY, tmp_path), np.random.default_rng(0)
    for seed in range(2):
        errors = rng.uniform(0.1, 0.5, 12)
        records.keep(cell(DEFAULT, LABELS, seed, errors.tolist()))
        records.keep(cell(DECODER, LABELS, seed, (0.9 * errors).tolist()))
    records.keep(cell(ENCODER, LABELS, 1, errors.tolist()))  # of the second seed alone
    found = table(records)
    rows = {row["row"]: row for row in found["columns"][0]["rows"]}
    assert rows["default_init"]["seeds"] == [0, 1]
    low, high = rows["default_init"]["interval"]
    assert low < rows["default_init"]["score"] - 0.01 < rows["default_init"]["score"] + 0.01 < high
    assert rows["decoder"]["better_than"]["default_init"] == {"seeds": [0, 1], "by": 0.1, "interval": [0.1, 0.1]}
    assert rows["encoder"]["better_than"]["default_init"] == {"seeds": [1], "by": 0.0, "interval": [0.0, 0.0]}
    assert rows["decoder"]["cost"]["finetuning_seconds"] == 45
    shown = markdown(found, STUDY)
    assert "| encoder and decoder | 2 |" in shown
    assert "10 [10, 10]" in shown
    assert "* a note" in shown


def test_cells_of_different_frames_are_refused(tmp_path: Path) -> None:
    records = Records(STUDY, tmp_path)
    records.keep(cell(DEFAULT, LABELS, 0, [0.2, 0.3]))
    records.keep(cell(DECODER, LABELS, 0, [0.2]))
    with pytest.raises(SimipuError, match="labels_8: its cells were scored on different frames"):
        table(records)


def test_mean_iou_is_over_all_pixels_and_rows_of_one_encoder_share_it(tmp_path: Path) -> None:
    records = Records(STUDY, tmp_path)
    counted = {"classes": ("a", "b", "never"), "abs_rel": ()}
    hits, unions = ((1, 4, 0), (5, 0, 0)), ((2, 8, 0), (10, 2, 0))
    records.keep(
        cell(DECODER, CLASSES, 0, [0, 0]).model_copy(update={**counted, "intersection": hits, "union": unions})
    )
    (column,) = [column for column in table(records)["columns"] if column["column"] == "classes"]
    assert [(row["row"], row["score"]) for row in column["rows"]] == [("decoder", 0.45), ("encoder", 0.45)]
    assert column["measure"] == "mean IoU"


def test_intersection_and_union() -> None:
    hits, union = agreement(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4)
    assert hits.tolist() == [1, 1, 0, 0]
    assert union.tolist() == [2, 3, 1, 0]


def test_the_probe_separates_what_a_line_separates() -> None:
    torch.manual_seed(0)
    features = torch.randn(300, 5) * torch.tensor([1, 100, 0.01, 1, 1]) + 7
    classes = (features[:, 1] > 7).long()
    classify = fit(features, classes, 2)
    assert (classify(features).argmax(dim=1) == classes).float().mean() > 0.98


def test_domains_are_what_they_say() -> None:
    world = SyntheticConfig(lidar_points=8000)
    street = domains.take("other_camera", world, "train", 0)
    night, room = domains.take("night", world, "eval", 0), domains.take("rooms", world, "eval", 0)
    labels, truth = (np.count_nonzero(depth) for depth in (street.label, street.truth))
    assert 0 < labels < 0.5 * truth  # fewer beams
    assert street.intrinsics[0, 0] == pytest.approx(0.7 * night.intrinsics[0, 0])
    assert night.image.mean() < 0.75 * street.image.mean()
    assert np.isfinite(room.truth).all()
    assert room.truth.max() < 12
    again = domains.take("rooms", world, "eval", 0)
    np.testing.assert_array_equal(again.image, room.image)
    assert (domains.take("rooms", world, "train", 0).image != room.image).any()


@pytest.mark.slow
def test_a_tiny_study_runs_stops_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = replace(STUDY, seeds=1)
    place = Workplace(study, tmp_path / "build", tmp_path / "found")
    assert run(place, data=None, deadline=time.time() - 1, processes=1) == []
    assert not place.results.exists()
    job = waves(study)[0][0]
    frames.prepare(study, frames.needed(study, [job]), place.frames)
    assert run_job(place, job) == 0
    made = {file: file.read_bytes() for file in place.results.rglob("*.json")}
    assert {file.relative_to(place.results).as_posix() for file in made} == {
        "labels_8/default_init-0.json",
        "tuning/default_init-1.json",
        "tuning/default_init-0.1.json",
    }
    assert run(place, data=None, deadline=math.inf, processes=1) == []
    assert all(file.read_bytes() == data for file, data in made.items())

    capsys.readouterr()
    show(place.records)
    assert "### rooms" in capsys.readouterr().out
    found = json.loads((place.results / "table.json").read_text())
    columns = {column["column"]: {row["row"]: row for row in column["rows"]} for column in found["columns"]}
    assert {name: list(rows) for name, rows in columns.items()} == {
        "labels_8": ["default_init", "decoder", "encoder", "ceiling"],
        "labels_0": ["decoder", "ceiling"],
        "classes": ["default_init", "decoder", "encoder", "ceiling"],
        "rooms_8": ["default_init", "decoder", "encoder", "ceiling"],
    }
    assert set(found["encoder_lr_scale"]) == {row.name for row in ROWS}
    costs = {name: row["cost"]["pretraining_passes"] for name, row in columns["labels_8"].items()}
    assert costs == {"default_init": 0, "decoder": 16, "encoder": 16, "ceiling": 16}
    assert all(0 < row["score"] < 1 for row in columns["classes"].values())
    assert columns["classes"]["decoder"] == {**columns["classes"]["encoder"], "row": "decoder"}
    assert columns["labels_8"]["decoder"]["score"] != columns["labels_8"]["encoder"]["score"]
