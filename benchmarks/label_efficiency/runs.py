"""Working out a job: pre-training, choice of the learning rate, fine-tuning and scores."""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.label_efficiency.probe import probe
from benchmarks.label_efficiency.records import Cell, Cost, Records, Trial
from benchmarks.label_efficiency.studies import Column, Job, Row, Study, digest
from simipu_core.artifacts import code_revision, read_manifest, write_artifact
from simipu_core.experiment import Experiment
from simipu_core.files import write_file
from simipu_core.models.depth_decoder import DecoderSpec
from simipu_core.models.depth_net import load_depth_net
from simipu_core.models.weights import EncoderSpec, save_weights
from simipu_core.stages import evaluate, finetune, pretrain


@dataclass(frozen=True)
class Workplace:
    """Where a study is worked out, and where its findings go."""

    study: Study
    build: Path
    results: Path

    @property
    def records(self) -> Records:
        """The findings."""
        return Records(self.study, self.results)

    @property
    def frames(self) -> Path:
        """Folder of the frames; studies of the same frames share it."""
        return self.build / f"frames-{self.study.frames}"

    def start(self, row: Row, seed: int) -> Path:
        """Folder of a pre-trained encoder; rows that pre-train alike share it."""
        return self.build / f"starts-{self.study.frames}" / f"{digest(row.pretraining)}-{seed}" / "encoder"

    def net(self, row: Row, seed: int, column: Column, scale: float) -> Path:
        """Folder of a fine-tuned net; it goes once it is scored."""
        recipe = self.study.recipe(row, column)
        return self.build / f"nets-{self.study.frames}" / f"{row.name}-{seed}-{recipe}" / f"net-{scale:g}"


def missing(records: Records, job: Job) -> list[tuple[Row, Column]]:
    """Cells of a job that are not there yet."""
    return [(row, column) for row, column in job.cells(records.study) if not records.cell(row, column, job.seed)]


def run_job(place: Workplace, job: Job, deadline: float = math.inf) -> int:
    """Work out the missing cells of a job, one after the other; no piece of work begins after the deadline.

    Args:
        place: the study and its folders, where the frames are.
        job: what to do.
        deadline: in seconds of `time.time`.

    Returns:
        Cells that are missing still.

    Raises:
        SimipuError: a stage failed.
    """
    log = place.build / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        for row, column in missing(place.records, job):
            for piece in _pieces(place, row, column, job.seed):
                if time.time() > deadline:
                    break
                piece()
    return len(missing(place.records, job))


def _pieces(place: Workplace, row: Row, column: Column, seed: int) -> list[Callable[[], object]]:
    """The work that a cell needs, in pieces."""
    pieces: list[Callable[[], object]] = []
    if row.learns_from != "nothing":
        pieces.append(lambda: _pretrained(place, row, seed))
    if column.asks == "classes":
        return [*pieces, lambda: _ask_classes(place, row, column, seed)]
    if column.labels and seed == 0 and len(place.study.scales) > 1:
        pieces += [lambda scale=scale: _try(place, row, scale) for scale in place.study.scales]  # type: ignore[misc]
    return [*pieces, lambda: _ask_depth(place, row, column, seed)]


def _pretrained(place: Workplace, row: Row, seed: int) -> tuple[Path | None, Cost]:
    """The encoder that a row starts from, if it does, made where it is not there yet."""
    if row.learns_from == "nothing":
        return None, Cost()
    config, out = place.study.experiment_of(row, seed), place.start(row, seed)
    checkpoints = out.parent / "checkpoints"
    if row.learns_from == "pairs":
        seconds = _made(
            out, lambda: pretrain.pretrain(place.frames / "pairs", config.pretrain, out, checkpoints=checkpoints)
        )
    else:
        seconds = _made(out, lambda: _learn_dense_depth(place, config, out, checkpoints))
    passes = int(read_manifest(out, "encoder").counts["steps"]) * config.pretrain.batch_size
    return out, Cost(pretraining_passes=passes, pretraining_seconds=seconds)


def _learn_dense_depth(place: Workplace, experiment: Experiment, out: Path, checkpoints: Path) -> None:
    """Pre-train on true depth with as many images as the other rows, by the fine-tuning stage."""
    pretraining = experiment.pretrain
    config = experiment.finetune.model_copy(
        update={
            "init": "torch_default",
            "start": "encoder",
            "epochs": pretraining.epochs,
            "batch_size": pretraining.batch_size,
            "max_frames": None,
        }
    )
    trained = out.with_name("net")
    if not trained.is_dir():
        finetune.finetune(place.frames / "dense", config, trained, encoder=None, checkpoints=checkpoints)
    net, manifest = load_depth_net(trained / "model.safetensors"), read_manifest(trained, "depth_net")
    encoder = EncoderSpec(name=net.spec.encoder_name, norm_eps=net.spec.norm_eps, input=net.spec.input)
    decoder = DecoderSpec(
        encoder_name=net.spec.encoder_name,
        channels=net.spec.decoder_channels,
        max_depth=net.spec.max_depth,
        image_scale=net.spec.input_scale,
    )
    with write_artifact(
        out, "encoder", inputs={"depth_net": manifest.digest}, parameters={}, licence=manifest.licence
    ) as draft:
        save_weights(net.encoder, draft.path / "encoder.safetensors", encoder)
        save_weights(net.decoder, draft.path / "decoder.safetensors", decoder)
        draft.counts.update(manifest.counts)
    shutil.rmtree(trained)


def _fine_tuned(place: Workplace, row: Row, column: Column, seed: int, scale: float) -> tuple[Path, Cost]:
    """The net of a row with a column's labels, made where it is not there yet."""
    encoder, cost = _pretrained(place, row, seed)
    out = place.net(row, seed, column, scale)
    config = place.study.experiment_of(row, seed, column.settings).finetune
    labels = {"max_frames": column.labels} if column.labels else {}
    config = config.model_copy(update={"epochs": column.epochs, "encoder_lr_scale": scale, **labels})
    depth, checkpoints = place.frames / column.frames, out.with_name(f"{out.name}.checkpoints")
    seconds = _made(out, lambda: finetune.finetune(depth, config, out, encoder=encoder, checkpoints=checkpoints))
    passes = int(read_manifest(out, "depth_net").counts["steps"]) * config.batch_size
    return out, cost.model_copy(update={"finetuning_passes": passes, "finetuning_seconds": seconds})


def _try(place: Workplace, row: Row, scale: float) -> None:
    """Score a learning rate of the encoder on the validation frames, with the first seed and column."""
    column = place.study.main[0]
    if place.records.trial(row, scale):
        return
    net, cost = _fine_tuned(place, row, column, 0, scale)
    scores = _scores(net, place.frames / "validation", place.study.experiment_of(row), net.with_name("validated"))
    place.records.keep(
        Trial(
            row=row.name,
            encoder_lr_scale=scale,
            recipe=place.study.recipe(row, column),
            revision=code_revision(),
            abs_rel=round(float(np.mean(list(scores.values()))), 5),
            finetuning_seconds=cost.finetuning_seconds,
        )
    )


def _ask_depth(place: Workplace, row: Row, column: Column, seed: int) -> None:
    """Fine-tune and score."""
    scale = place.records.scale(row) if column.labels else 1.0
    if scale is None:
        return  # the first seed was stopped before the row could choose
    net, cost = _fine_tuned(place, row, column, seed, scale)
    begun = time.process_time()
    experiment = place.study.experiment_of(row, seed, column.settings)
    scores = _scores(net, place.frames / column.frames, experiment, net.with_name("scored"))
    unit, units = _units(scores)
    means = [[scores[name] for name in names] for names in units.values()]
    _keep(
        place,
        row,
        column,
        seed,
        unit=unit,
        units=tuple(units),
        frames=tuple(map(len, means)),
        abs_rel=tuple(round(float(np.mean(each)), 5) for each in means),
        encoder_lr_scale=scale if column.labels else None,
        cost=cost.model_copy(update={"scoring_seconds": time.process_time() - begun}),
    )
    shutil.rmtree(net.parent)


def _ask_classes(place: Workplace, row: Row, column: Column, seed: int) -> None:
    """Fit a linear probe on frozen features and count what it hits."""
    encoder, cost = _pretrained(place, row, seed)
    begun = time.process_time()
    counted = probe(place.study.experiment_of(row, seed), encoder, place.frames)
    _keep(
        place,
        row,
        column,
        seed,
        unit="drive",
        units=counted.drives,
        frames=counted.frames,
        classes=counted.classes,
        intersection=_tuples(counted.intersection),
        union=_tuples(counted.union),
        cost=cost.model_copy(update={"finetuning_seconds": time.process_time() - begun}),
    )


def _keep(place: Workplace, row: Row, column: Column, seed: int, **found: object) -> None:
    recipe = place.study.recipe(row, column)
    names = {"row": row.name, "column": column.name, "seed": seed, "recipe": recipe, "revision": code_revision()}
    place.records.keep(Cell.model_validate({**names, **found}))


def _scores(net: Path, depth: Path, experiment: Experiment, report: Path) -> dict[str, float]:
    """Headline Abs Rel by scored frame."""
    shutil.rmtree(report, ignore_errors=True)
    evaluate.evaluate(net, depth, experiment.evaluate, report)
    headline = json.loads((report / "report.json").read_text(encoding="utf-8"))["headline"]
    rows = pq.read_table(report / "per_image.parquet").to_pylist()
    shutil.rmtree(report)
    chosen = [row for row in rows if row["predictor"] == "model" and row["protocol"] == headline and row["pixels"]]
    return {row["sample_id"]: row["abs_rel"] for row in chosen}


def _units(scores: Iterable[str]) -> tuple[str, dict[str, list[str]]]:
    """Frames by drive; of a single drive, each by itself, since its frames are all there is to draw from."""
    by_drive: dict[str, list[str]] = {}
    for name in scores:
        by_drive.setdefault(name.rpartition("/")[0], []).append(name)
    return ("drive", by_drive) if len(by_drive) > 1 else ("frame", {name: [name] for name in scores})


def _tuples(counts: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in counts)


def _made(out: Path, make: Callable[[], object]) -> float:
    """Make a folder that is not there yet; the seconds of one core that it took, those of stopped attempts included."""
    spent = out.with_name(f"{out.name}.seconds")
    before = float(spent.read_text()) if spent.is_file() else 0.0
    if out.is_dir():
        return before
    begun = time.process_time()
    try:
        make()
    finally:
        before += time.process_time() - begun
        write_file(spent, f"{before:.1f}".encode())
    return before
