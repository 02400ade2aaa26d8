"""What pre-training is worth with few labels: presets, controls and one-at-a-time ablations over several seeds.

::

    python -m benchmarks.label_efficiency synthetic
    python -m benchmarks.label_efficiency real --data FOLDER    (kitti_object/ and kitti_raw/)

Every arm is pre-trained, fine-tuned and scored once a seed, by the same stages as the pipeline, on the same frames
with the same settings; only the arm's own settings differ. What is done is kept under build/label_efficiency, so a
stopped run goes on. The table is written to benchmarks/results/label_efficiency_STUDY.json.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core import synthetic
from simipu_core.evaluation.intervals import bootstrap_means, interval
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.project import experiment_file
from simipu_core.stages import evaluate, finetune, ingest, pair, pretrain

BUILD = Path("build/label_efficiency")
RESULTS = Path(__file__).parent / "results"

ARMS: dict[str, list[str]] = {
    "scratch": ["finetune.init=kaiming_zero_gamma"],
    "improved": [],
    "LiDAR regression": ["finetune.init=checkpoint", "finetune.init_file={folder}/regression_net/model.safetensors"],
    "default_init": ["finetune.init=torch_default"],
    "reference": ["preset=reference", "pretrain.contrast.group_size=4"],
}
"""Arms that are run with every seed. `LiDAR regression` starts from an encoder that was trained from scratch on the
depth of the projected scans of all pre-training frames."""

CONTROLS = ("scratch", "default_init")

_CHANGES: dict[str, list[str]] = {
    "zeroed branches": [],
    "stride 32": ["pretrain.contrast.feature_strides=[32]"],
    "point side stopped": ["pretrain.contrast.symmetric_inter=false", "pretrain.contrast.stop_point_gradient=true"],
    "reflectance alone": ["pretrain.point_encoder.input_features=reflectance"],
    "positions, not range": ["pretrain.point_encoder.input_features=reflectance_xyz"],
    "Hungarian pairs": ["pretrain.contrast.pairing=hungarian"],
    "published sampling": [
        "pretrain.contrast.feature_sampling=align_corners",
        "pretrain.contrast.sampling_extent=image",
    ],
    "strides 8, 16 and 32": ["pretrain.contrast.feature_strides=[8, 16, 32]"],
    "hidden points kept": ["pretrain.contrast.drop_invisible=false"],
    "BGR, std 1": [
        "pretrain.input={channels: bgr, mean: [103.53, 116.28, 123.675], std: [1, 1, 1]}",
        "finetune.allow_input_mismatch=true",
    ],
}
ABLATIONS = {name: ["pretrain.image_encoder.init=kaiming_zero_gamma", *changes] for name, changes in _CHANGES.items()}
"""`zeroed branches` is `improved` from Kaiming with zeroed residual branches; the others differ from *it* in one thing
each, mostly in one that `improved` adds."""


@dataclass(frozen=True)
class Study:
    """Data and budget that all arms share."""

    experiment: str
    settings: tuple[str, ...]
    labels: dict[int, int]
    """Fine-tuning epochs for each number of labelled frames."""
    seeds: int
    ablation_seeds: int
    regression_epochs: int = 0
    """Passes over the pre-training frames for the encoder of `LiDAR regression`; 0 leaves this arm out."""


STUDIES = {
    "synthetic": Study(
        experiment="demo",
        settings=(
            "synthetic.object_frames=3072",
            "synthetic.drives=160",
            "synthetic.frames_per_drive=2",
            "depth_data.train_share=0.6",
            "pretrain.workers=0",
            "pretrain.precision=bf16",
            "pretrain.channels_last=true",
            "pretrain.epochs=4",
            "pretrain.lr_decay=0.41",
            "pretrain.point_optimizer={kind: adamw, lr: 2e-3}",
            "pretrain.image_optimizer={kind: adamw, lr: 2e-3}",
            "pretrain.head_optimizer={kind: adamw, lr: 2e-3}",
            "pretrain.contrast.group_size=8",
            "evaluate.panels=0",
        ),
        labels={32: 75, 128: 19},
        seeds=5,
        ablation_seeds=1,
        regression_epochs=3,
    ),
    "real": Study(
        experiment="kitti_sample",
        settings=("pretrain.workers=0", "finetune.workers=0", "evaluate.panels=0"),
        labels={16: 50},
        seeds=5,
        ablation_seeds=0,
    ),
}


def prepare(study: Study, folder: Path, data: str | None) -> None:
    """Make the shards that all arms share."""
    experiment = load_experiment(experiment_file(study.experiment), list(study.settings))
    raw = data
    if raw is None:
        raw = str(folder / "raw")
        if not Path(raw).is_dir():
            synthetic.synthesize(experiment.synthetic, Path(raw))
    for target, source in (("pairs", experiment.pretrain_data), ("depth", experiment.depth_data)):
        if not (folder / target).is_dir():
            shutil.rmtree(folder / "catalogue", ignore_errors=True)
            ingest.ingest(source, folder / "catalogue", root=raw)
            pair.pair(folder / "catalogue", experiment.pair, target, folder / target)  # type: ignore[arg-type]
    if study.regression_epochs and not (folder / "regression_net").is_dir():
        _regress_scans(study, folder, raw)


def _regress_scans(study: Study, folder: Path, raw: str) -> None:
    """A depth net from scratch on the scans of all pre-training frames."""
    source = load_experiment(experiment_file(study.experiment), list(study.settings)).pretrain_data.kind
    labels = [f"depth_data.kind={source}", "depth_data.split=within_sequence", "depth_data.train_share=0.97"]
    experiment = configured(study, [*labels, "pair.depth_from=projected_lidar", *ARMS["scratch"]], seed=0)
    if not (folder / "regression").is_dir():
        shutil.rmtree(folder / "catalogue", ignore_errors=True)
        ingest.ingest(experiment.depth_data, folder / "catalogue", root=raw)
        pair.pair(folder / "catalogue", experiment.pair, "depth", folder / "regression")
    config = experiment.finetune.model_copy(update={"epochs": study.regression_epochs})
    finetune.finetune(folder / "regression", config, folder / "regression_net", encoder=None)


def run_arm(study: Study, folder: Path, name: str, settings: list[str], seed: int) -> float:
    """Pre-train where the arm says so, then fine-tune and score with each number of labels; returns seconds."""
    begun = time.monotonic()
    out = folder / "runs" / name / str(seed)
    out.mkdir(parents=True, exist_ok=True)
    settings = [setting.format(folder=folder) if "{folder}" in setting else setting for setting in settings]
    experiment = configured(study, settings, seed)
    with (out / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        encoder = None
        if experiment.finetune.needs_pretraining:
            encoder = out / "encoder"
            if not encoder.is_dir():
                pretrain.pretrain(folder / "pairs", experiment.pretrain, encoder, checkpoints=out / "checkpoints")
        for labels, epochs in study.labels.items():
            report = out / f"report-{labels}"
            if report.is_dir():
                continue
            net = out / f"net-{labels}"
            config = configured(study, [*settings, f"finetune.max_frames={labels}", f"finetune.epochs={epochs}"], seed)
            shutil.rmtree(net, ignore_errors=True)
            finetune.finetune(folder / "depth", config.finetune, net, encoder=encoder)
            evaluate.evaluate(net, folder / "depth", config.evaluate, report)
            shutil.rmtree(net)
    return time.monotonic() - begun


def configured(study: Study, settings: list[str], seed: int) -> Experiment:
    """The study's experiment with an arm's settings and a seed."""
    seeds = [f"pretrain.seed={seed}", f"finetune.seed={seed}"]
    return load_experiment(experiment_file(study.experiment), [*study.settings, *settings, *seeds])


def frame_scores(report: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Sample ids and headline Abs Rel of the scored frames."""
    headline = json.loads((report / "report.json").read_text(encoding="utf-8"))["headline"]
    rows = pq.read_table(report / "per_image.parquet").to_pylist()
    chosen = [row for row in rows if row["predictor"] == "model" and row["protocol"] == headline]
    scored = [row for row in chosen if np.isfinite(row["abs_rel"])]
    return [row["sample_id"] for row in scored], np.array([row["abs_rel"] for row in scored])


def table(study: Study, folder: Path) -> list[dict[str, Any]]:
    """One row per arm and number of labels: Abs Rel with its interval, and by how much it beats the two controls."""
    rows: list[dict[str, Any]] = []
    for labels in study.labels:
        scores: dict[str, NDArray[np.float64]] = {}
        means: dict[str, NDArray[np.float64]] = {}
        for name in [*ARMS, *ABLATIONS]:
            reports = sorted((folder / "runs" / name).glob(f"*/report-{labels}"))
            if not reports:
                continue
            ids, _ = frame_scores(reports[0])
            scores[name] = np.stack([frame_scores(report)[1] for report in reports])
            drives = [sample_id.rsplit("/", 1)[0] for sample_id in ids]
            if len(set(drives)) == 1:  # a single drive: its frames are all there is to draw from
                drives = ids
            means[name] = bootstrap_means(scores[name], np.unique(drives, return_inverse=True)[1].astype(np.int64))
        for name, drawn in means.items():
            gains = {
                control: 1 - drawn / means[control] for control in CONTROLS if control in means and control != name
            }
            rows.append(
                {
                    "labels": labels,
                    "arm": name,
                    "seeds": len(scores[name]),
                    "abs_rel": round(float(scores[name].mean()), 4),
                    "interval": _rounded(interval(drawn), 4),
                    "per_seed": _rounded(scores[name].mean(axis=1), 4),
                    "better_than": {
                        control: {"share": round(float(gain.mean()), 3), "interval": _rounded(interval(gain), 3)}
                        for control, gain in gains.items()
                    },
                }
            )
    return rows


def _rounded(values: Iterable[float], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def main() -> None:
    """Run what is missing, print the table and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--data", help="folder of real frames, for `real`")
    parser.add_argument("--processes", type=int, default=2, help="arms run side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="only print and store the table of what is done")
    arguments = parser.parse_args()
    study, folder = STUDIES[arguments.study], BUILD / arguments.study
    if not arguments.table:
        prepare(study, folder, arguments.data)
        arms = {
            name: settings for name, settings in ARMS.items() if name != "LiDAR regression" or study.regression_epochs
        }
        tasks = [(name, settings, seed) for name, settings in arms.items() for seed in range(study.seeds)]
        tasks += [(name, settings, s) for s in range(study.ablation_seeds) for name, settings in ABLATIONS.items()]
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
            futures = {pool.submit(run_arm, study, folder, *task): task for task in tasks}
            for done in as_completed(futures):
                name, _, seed = futures[done]
                print(f"{name}, seed {seed}: {done.result():.0f} s", flush=True)
    rows = table(study, folder)
    RESULTS.mkdir(exist_ok=True)
    result = {"study": arguments.study, "settings": [study.experiment, *study.settings], "rows": rows}
    (RESULTS / f"label_efficiency_{arguments.study}.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        low, high = row["interval"]
        gains = [f"  {gain['share']:+.1%} on {control}" for control, gain in row["better_than"].items()]
        print(f"{row['labels']:4} labels  {row['arm']:20} {row['abs_rel']:.3f} [{low:.3f}, {high:.3f}]", *gains)


if __name__ == "__main__":
    main()
