"""Stage: score a depth net, its control, the champion and a constant depth under named protocols."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simipu_core.artifacts import Manifest, check_new, local_artifact, read_manifest, write_artifact
from simipu_core.config import EvaluateConfig, PromotionConfig
from simipu_core.data.images import decode_depth, decode_image
from simipu_core.data.schema import DepthRow
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from simipu_core.evaluation.gate import Decision, Paired, decide
from simipu_core.evaluation.intervals import bootstrap_means, interval
from simipu_core.evaluation.metrics import METRICS, depth_metrics
from simipu_core.evaluation.panels import save_panel
from simipu_core.evaluation.protocols import valid_pixels
from simipu_core.evaluation.report import ChampionScores, Report, Scores
from simipu_core.inference import answered_region, predict_depth
from simipu_core.models.depth_net import DepthNet, load_depth_net
from simipu_core.progress import progress
from simipu_core.tracking.champion import Champion
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.training.devices import pick_device

MODEL, CONSTANT, CONTROL = "model", "constant_depth", "scratch_control"
CHAMPION, BESIDE_CHAMPION = "champion", "model_beside_champion"
"""The champion's scores, and the model's, over the pixels that both nets answer for."""
_PREFETCH_ROWS = 64
"""Rows that are fetched before they are needed, where shards lie in S3."""


def evaluate(
    model: Path,
    depth: Path,
    config: EvaluateConfig,
    out: Path,
    *,
    control: Path | None = None,
    champion: Champion | None = None,
    promotion: PromotionConfig | None = None,
    run: Run = SilentRun(),
) -> Manifest:
    """Score predictions on the evaluation split; write report.json, per_image.parquet and panels/.

    Metrics are per image, then averaged over the images that have a valid pixel. No scale is fitted. A net that
    answers with NaN has NaN scores. Each net is fed as its own weights file says.

    Args:
        model: artifact of kind `depth_net`.
        depth: artifact of kind `depth`.
        config: the experiment's `evaluate` section.
        out: artifact directory to write, kind `report`.
        control: artifact of kind `depth_net` that started from PyTorch's default weights.
        champion: registered version to compare with, if there is one.
        promotion: the gate, whose decision goes into the report; None leaves it out.
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
    scorer = _ChampionScorer(champion, device)
    source = read_manifest(depth, "depth")
    run.log_params(config.model_dump())
    run.log_input("depth", source.digest, "evaluation", made_by=source.mlflow_run_id)
    for name, manifest in made.items():
        run.log_input(name, manifest.digest, "evaluation", made_by=manifest.mlflow_run_id)
    shards = Shards(depth, "depth", "eval")
    if len(shards) == 0:
        raise SimipuError(f"{depth}: holds no evaluation frame; set depth_data.split so that some frames evaluate.")
    constant = source.counts["median_depth_train"]
    panelled = set(np.linspace(0, len(shards) - 1, min(config.panels, len(shards))).astype(int).tolist())

    table = _Table()
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
            shards.expect(range(index, min(index + _PREFETCH_ROWS, len(shards))))
            row = shards.row(index)
            image, truth = decode_image(row["image"]), decode_depth(row["depth"], row["depth_scale"])
            answered = _mask(nets[MODEL], truth.shape)
            predictions = {name: predict_depth(net, image, flip=config.flip) for name, net in nets.items()}
            predictions[CONSTANT] = np.full(truth.shape, constant, np.float32)
            champion_depth = scorer.predict(image, flip=config.flip)
            for protocol in config.protocols:
                valid = valid_pixels(protocol, truth, config.depth_range) & answered
                for name, prediction in predictions.items():
                    table.add(row, name, protocol, truth[valid], prediction[valid])
                if champion_depth is not None:
                    common = valid & _mask(scorer.net, truth.shape)
                    table.add(row, CHAMPION, protocol, truth[common], champion_depth[common])
                    table.add(row, BESIDE_CHAMPION, protocol, truth[common], predictions[MODEL][common])
            if index in panelled:
                file = draft.path / "panels" / f"{index:05d}.png"
                save_panel(file, image, truth, predictions[MODEL], config.depth_range[1])
                run.log_file(file, "panels")
            advance()

        def averages(name: str) -> dict[str, Scores]:
            return {protocol: table.average(name, protocol) for protocol in config.protocols}

        headline = config.protocols[0]
        if table.num_scored(MODEL, headline) == 0:
            raise SimipuError(
                f"{depth}: no evaluation frame has a pixel that {headline} counts; choose another protocol."
            )
        report = Report(
            headline=headline,
            num_images=len(shards),
            flip=config.flip,
            metrics=averages(MODEL),
            baselines={name: averages(name) for name in predictions if name != MODEL},
            model_digest=made[MODEL].digest,
            data_digest=source.digest,
            intervals={protocol: table.interval(MODEL, protocol) for protocol in config.protocols},
            champion=ChampionScores(version=scorer.version, metrics=averages(CHAMPION)) if scorer.is_scored else None,
        )
        report = report.model_copy(update={"decision": _decision(report, table, scorer, promotion)})
        (draft.path / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(table.rows), draft.path / "per_image.parquet")
        draft.counts.update(images=len(shards))
        run.log_file(draft.path / "report.json")
        run.log_metrics(_flat(report))
    return read_manifest(out, "report")


def _mask(net: DepthNet, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    answered_region(net.spec, *shape).cut(mask)[:] = True
    return mask


class _ChampionScorer:
    """The champion while it is scored; where it cannot be, `problem` says why and the model is scored without it."""

    net: DepthNet

    def __init__(self, champion: Champion | None, device: str) -> None:
        self.version = champion.version if champion else 0
        self.problem = champion.problem if champion else None
        self.is_scored = False
        if champion and champion.weights:
            try:
                self.net = load_depth_net(champion.weights, device)
                self.is_scored = True
            except SimipuError as error:
                self._give_up(error)

    def predict(self, image: NDArray[np.uint8], *, flip: bool) -> NDArray[np.float32] | None:
        """Its depth of an image, (H, W) metres; None where it is not scored."""
        if self.is_scored:
            try:
                return predict_depth(self.net, image, flip=flip)
            except SimipuError as error:
                self._give_up(error)
        return None

    def _give_up(self, error: SimipuError) -> None:
        self.is_scored = False
        self.problem = f"champion version {self.version} cannot be scored on these frames ({error})"


@dataclass
class _Table:
    """One row per frame, predictor and protocol."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        frame: DepthRow,
        predictor: str,
        protocol: str,
        truth: NDArray[np.float32],
        prediction: NDArray[np.float32],
    ) -> None:
        """Score the valid pixels, (P,) metres, of one frame."""
        self.rows.append(
            {
                "sample_id": frame["sample_id"],
                "sequence": f"{frame['source']}/{frame['sequence']}",
                "predictor": predictor,
                "protocol": protocol,
                "pixels": len(truth),
                **depth_metrics(truth, prediction),
            }
        )

    def average(self, predictor: str, protocol: str) -> Scores:
        """Means over the frames with valid pixels; NaN where there is none."""
        scored = self._scored(predictor, protocol)
        return {name: float(np.mean([row[name] for row in scored])) if scored else float("nan") for name in METRICS}

    def num_scored(self, predictor: str, protocol: str) -> int:
        """Frames with valid pixels."""
        return len(self._scored(predictor, protocol))

    def abs_rel(self, predictor: str, protocol: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Abs Rel (F,) of the frames with valid pixels, and the number of each frame's sequence (F,), from 0."""
        scored = self._scored(predictor, protocol)
        _, groups = np.unique([row["sequence"] for row in scored], return_inverse=True)
        return np.array([row["abs_rel"] for row in scored], np.float64), groups.astype(np.int64)

    def interval(self, predictor: str, protocol: str) -> tuple[float, float]:
        """95% bootstrap interval of the average Abs Rel over sequences, or over frames where there is one sequence."""
        scores, groups = self.abs_rel(predictor, protocol)
        if not np.isfinite(scores).all() or len(scores) == 0:
            return float("nan"), float("nan")
        return interval(bootstrap_means(scores[None], groups if groups.max() > 0 else np.arange(len(scores))))

    def _scored(self, predictor: str, protocol: str) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows
            if row["predictor"] == predictor and row["protocol"] == protocol and row["pixels"] > 0
        ]


def _decision(
    report: Report, table: _Table, scorer: _ChampionScorer, config: PromotionConfig | None
) -> Decision | None:
    if config is None:
        return None
    protocol = config.protocol or report.headline
    if protocol not in report.metrics:
        raise SimipuError(
            f"tracking.promotion.protocol is {protocol}, which is not scored: add it to evaluate.protocols."
        )
    problem, paired = scorer.problem, None
    if scorer.is_scored:
        challenger, groups = table.abs_rel(BESIDE_CHAMPION, protocol)
        champion, _ = table.abs_rel(CHAMPION, protocol)
        if len(champion):
            paired = Paired(scorer.version, challenger, champion, groups)
        else:
            problem = f"champion version {scorer.version} and the model have no scored pixel of {protocol} in common"
    return decide(config, protocol, report.metrics[protocol]["abs_rel"], paired, obstacle=problem)


def _flat(report: Report) -> dict[str, float]:
    """The report's numbers under names that MLflow sorts well; the headline once more as `abs_rel`."""
    flat = {"abs_rel": report.abs_rel}
    for protocol, scores in report.metrics.items():
        flat |= {f"{protocol}/{name}": value for name, value in scores.items()}
    for baseline, protocols in report.baselines.items():
        flat |= {f"{baseline}/{protocol}/abs_rel": scores["abs_rel"] for protocol, scores in protocols.items()}
    if report.champion:
        flat |= {f"champion/{name}/abs_rel": scores["abs_rel"] for name, scores in report.champion.metrics.items()}
    if report.decision:
        flat["promotion/passed"] = float(report.decision.passed)
        if report.decision.relative_improvement is not None:
            flat["promotion/relative_improvement"] = report.decision.relative_improvement
    return flat
