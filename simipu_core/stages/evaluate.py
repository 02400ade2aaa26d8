"""Stage: score a depth net, its scratch control and a constant depth under named protocols."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.artifacts import Manifest, check_new, local_artifact, read_manifest, write_artifact
from simipu_core.config import EvaluateConfig
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.evaluation.metrics import NAMES, depth_metrics
from simipu_core.evaluation.panels import save_panel
from simipu_core.evaluation.protocols import valid_pixels
from simipu_core.evaluation.report import Report, Scores
from simipu_core.inference import predict_depth
from simipu_core.models.depth_net import load_depth_net
from simipu_core.progress import progress
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.devices import pick_device

MODEL, CONSTANT, CONTROL = "model", "constant_depth", "scratch_control"
_AHEAD = 64
"""Rows that are fetched before they are needed, where shards lie in S3."""


def evaluate(
    model: Path,
    depth: Path,
    config: EvaluateConfig,
    out: Path,
    *,
    control: Path | None = None,
    run: Run = SilentRun(),
) -> Manifest:
    """Score predictions on the evaluation split; write report.json, per_image.parquet and panels/.

    Metrics are per image, then averaged over the images that have a valid pixel. No scale is fitted.

    Args:
        model: artifact of kind `depth_net`.
        depth: artifact of kind `depth`.
        config: the experiment's `evaluate` section.
        out: artifact directory to write, kind `report`.
        control: artifact of kind `depth_net` that was fine-tuned from scratch.
        run: where the run is recorded.

    Raises:
        SimipuError: the inputs do not fit, or no evaluation frame has a valid pixel.
    """
    check_new(out)
    model, control = local_artifact(model), control and local_artifact(control)
    device = str(pick_device(config.device))
    made = {MODEL: read_manifest(model, "depth_net")}
    nets = {MODEL: load_depth_net(model / "model.safetensors", device)}
    if control:
        made[CONTROL] = read_manifest(control, "depth_net")
        nets[CONTROL] = load_depth_net(control / "model.safetensors", device)
    source = read_manifest(depth, "depth")
    run.log_params(config.model_dump())
    run.log_input("depth", source.digest, "evaluation")
    shards = Shards(depth, "depth", "eval")
    if len(shards) == 0:
        raise SimipuError(f"{depth}: holds no evaluation frame; set depth_data.split so that some frames evaluate.")
    constant = source.counts["median_depth_train"]
    panelled = set(np.linspace(0, len(shards) - 1, min(config.panels, len(shards))).astype(int).tolist())

    rows: list[dict[str, str | float]] = []
    with (
        write_artifact(
            out,
            "report",
            inputs={name: manifest.digest for name, manifest in made.items()} | {"depth": source.digest},
            parameters=config.model_dump(mode="json"),
            licence=source.licence,
            mlflow_run_id=run.run_id,
        ) as draft,
        progress("evaluate", len(shards)) as advance,
    ):
        (draft.path / "panels").mkdir()
        for index in range(len(shards)):
            shards.expect(range(index, min(index + _AHEAD, len(shards))))
            row = shards.row(index)
            image, truth = decode_image(row["image"]), decode_depth(row["depth"], row["depth_scale"])
            predictions = {name: predict_depth(net, image, flip=config.flip) for name, net in nets.items()}
            predictions[CONSTANT] = np.where(np.isnan(predictions[MODEL]), np.nan, np.float32(constant))
            for protocol in config.protocols:
                valid = valid_pixels(protocol, truth, config.depth_range) & ~np.isnan(predictions[MODEL])
                for name, prediction in predictions.items():
                    scores = depth_metrics(truth[valid], prediction[valid])
                    rows.append({"sample_id": row["sample_id"], "predictor": name, "protocol": protocol, **scores})
            if index in panelled:
                file = draft.path / "panels" / f"{index:05d}.png"
                save_panel(file, image, truth, predictions[MODEL], config.depth_range[1])
                run.log_file(file, "panels")
            advance()

        averages = {
            name: {protocol: _average(rows, name, protocol) for protocol in config.protocols} for name in predictions
        }
        report = Report(
            headline=config.protocols[0],
            num_images=len(shards),
            flip=config.flip,
            metrics=averages.pop(MODEL),
            baselines=averages,
            model_digest=made[MODEL].digest,
            data_digest=source.digest,
        )
        if not np.isfinite(report.abs_rel):
            raise SimipuError(
                f"{depth}: no evaluation frame has a pixel that {report.headline} counts; choose another protocol."
            )
        (draft.path / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(rows), draft.path / "per_image.parquet")
        draft.counts.update(images=len(shards))
        run.log_file(draft.path / "report.json")
        run.log_metrics(_flat(report))
    return read_manifest(out, "report")


def _average(rows: list[dict[str, str | float]], predictor: str, protocol: str) -> Scores:
    chosen = [row for row in rows if row["predictor"] == predictor and row["protocol"] == protocol]
    scored = [row for row in chosen if not np.isnan(float(row["abs_rel"]))]
    return {name: float(np.mean([row[name] for row in scored])) if scored else float("nan") for name in NAMES}


def _flat(report: Report) -> dict[str, float]:
    """The report's numbers under names that MLflow sorts well; the headline once more as `abs_rel`."""
    flat = {"abs_rel": report.abs_rel}
    for protocol, scores in report.metrics.items():
        flat |= {f"{protocol}/{name}": value for name, value in scores.items()}
    for baseline, protocols in report.baselines.items():
        flat |= {f"{baseline}/{protocol}/abs_rel": scores["abs_rel"] for protocol, scores in protocols.items()}
    return flat
