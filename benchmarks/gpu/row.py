"""Starts side by side at ResNet-50: Abs Rel after fine-tuning with 32 labels, one seed, the stages of the pipeline."""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.agenda import Part
from benchmarks.label_efficiency import Study, prepare, run_arm
from simipu_core.evaluation.report import Report

ARMS = {
    "default_init": ["finetune.init=torch_default"],
    "lidar_depth": ["pretrain.objective=lidar_depth", "finetune.start=encoder_and_decoder"],
    "contrastive": [],
}
_EXPECTED = 120.0
"""Seconds that an arm is taken to need."""

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


def study(sizes: str) -> Study:
    """Data and budget."""
    shared = ("depth_data.train_share=0.6", "pretrain.precision=bf16", "finetune.precision=bf16", "evaluate.panels=0")
    if sizes == "tiny":
        return Study("demo", (*shared, *_TINY), labels={8: 1}, seeds=1, ablation_seeds=0)
    return Study("demo", (*shared, *_FULL), labels={32: 75}, seeds=1, ablation_seeds=0)


def run(part: Part) -> None:
    """One arm after another."""
    chosen, folder = study(part.sizes.name), part.data.pairs.parent / "row"
    prepare(chosen, folder, None)
    for name, settings in ARMS.items():
        device = [f"{stage}.device={part.device.type}" for stage in ("pretrain", "finetune", "evaluate")]
        task = partial(_arm, chosen, folder, name, [*settings, *device])
        part.measure(name, task, _EXPECTED if part.device.type == "cuda" else 0)


def _arm(study: Study, folder: Path, name: str, settings: list[str]) -> dict[str, Any]:
    seconds = run_arm(study, folder, name, settings, 0)
    return {"abs_rel": _abs_rel(folder / "runs" / name / "0"), "seconds": seconds}


def _abs_rel(arm: Path) -> dict[str, float]:
    """By number of labels."""
    files = sorted(arm.glob("report-*/report.json"))
    reports = {file.parent.name.removeprefix("report-"): Report.model_validate_json(file.read_text()) for file in files}
    return {labels: report.abs_rel for labels, report in reports.items()}
