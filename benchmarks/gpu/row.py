"""Starts side by side at ResNet-50: Abs Rel after fine-tuning with 32 labels, one seed, the stages of the pipeline."""

import time
from functools import partial
from typing import Any

from benchmarks.gpu.agenda import Part
from benchmarks.label_efficiency import frames
from benchmarks.label_efficiency.runs import Workplace, run_job
from benchmarks.label_efficiency.studies import LIDAR_DEPTH, Column, Job, Row, Study
from benchmarks.label_efficiency.table import mean

ROWS = (
    Row("default_init", "random, PyTorch's defaults", ("finetune.init=torch_default",), "nothing"),
    Row("lidar_depth", "LiDAR depth", LIDAR_DEPTH, keeps_decoder=True),
    Row("contrastive", "contrast"),
)
_EXPECTED = 120.0
"""Seconds that a row is taken to need."""

_FULL = (
    "synthetic.object_frames=768",
    "synthetic.drives=48",
    "synthetic.frames_per_drive=4",
    "synthetic.image_size=[192, 640]",
    "pretrain.image={long_side: [480, 800], short_side: [144, 240]}",
    "pretrain.image_encoder.name=resnet50",
    "pretrain.epochs=12",
    "pretrain.batch_size=32",
    "pretrain.workers=12",
    "pretrain.compile=false",
    "finetune.encoder_name=resnet50",
    "finetune.augment.crop=[160, 448]",
    "finetune.workers=4",
)
_TINY = (
    "synthetic.object_frames=16",
    "synthetic.drives=4",
    "synthetic.frames_per_drive=4",
    "synthetic.image_size=[48, 160]",
    "synthetic.lidar_points=6000",
    "pretrain.epochs=1",
    "pretrain.workers=0",
    "finetune.workers=0",
)
_LABELS_32 = Column("labels_32", "32 labels", 32, 75)
_SHARED = ("depth_data.train_share=0.6", "pretrain.precision=bf16", "finetune.precision=bf16", "evaluate.panels=0")


def study(sizes: str, device: str) -> Study:
    """Data and budget."""
    devices = tuple(f"{stage}.device={device}" for stage in ("pretrain", "finetune", "evaluate"))
    settings, column = (_TINY, Column("labels_8", "8 labels", 8, 1)) if sizes == "tiny" else (_FULL, _LABELS_32)
    return Study("demo", (*_SHARED, *settings, *devices), ROWS, (column,), seeds=1, scales=(1.0,))


def run(part: Part) -> None:
    """One row after another."""
    folder = part.data.pairs.parent / "row"
    place = Workplace(study(part.sizes.name, part.device.type), folder, folder / "found")
    jobs = [Job((row,), 0, place.study.main) for row in ROWS]
    frames.prepare(place.study, frames.needed(place.study, jobs), place.frames)
    for job in jobs:
        part.measure(job.rows[0].name, partial(_row, place, job), _EXPECTED)


def _row(place: Workplace, job: Job) -> dict[str, Any]:
    begun = time.monotonic()
    run_job(place, job)
    (row,), (column,) = job.rows, job.columns
    cell = place.records.cell(row, column, job.seed)
    assert cell is not None
    return {"abs_rel": {str(column.labels): mean([cell])}, "seconds": time.monotonic() - begun}
