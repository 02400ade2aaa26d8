"""The studies: rows (starts), columns (what is asked of them), and the order of work."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from simipu_core.experiment import Experiment, load_experiment
from simipu_core.project import experiment_file


@dataclass(frozen=True)
class Row:
    """A start. Rows that pre-train alike share what comes of it."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    learns_from: Literal["nothing", "pairs", "dense"] = "pairs"
    """`nothing`: a random start · `pairs`: the pre-training stage · `dense`: fine-tuning on the rendered depth of every
    pixel of the same frames."""
    keeps_decoder: bool = False

    @property
    def pretraining(self) -> tuple[object, ...]:
        """What decides the outcome of its pre-training."""
        return (self.settings, self.learns_from)


@dataclass(frozen=True)
class Column:
    """What is asked of a start: depth after fine-tuning, or classes from its frozen features."""

    name: str
    title: str
    labels: int = 0
    """Frames to fine-tune on; 0 takes the net as pre-training left it."""
    epochs: int = 0
    frames: str = "street"
    """Frames to fine-tune and score on, see `frames.MAKERS`."""
    settings: tuple[str, ...] = ()
    asks: Literal["depth", "classes"] = "depth"


@dataclass(frozen=True)
class Study:
    """Data, rows, columns and budget."""

    experiment: str
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    main: tuple[Column, ...]
    """Columns that come first; the first one of them decides the rows' learning rates."""
    further: tuple[Column, ...] = ()
    seeds: int = 5
    scales: tuple[float, ...] = (1.0, 0.3, 0.1)
    """Values of `finetune.encoder_lr_scale` among which every row chooses."""
    validation: tuple[str, ...] = ()
    """Settings that turn the study's frames into those on which a row chooses."""
    domain_frames: tuple[int, int] = (32, 96)
    """Frames that train, and frames that are scored, of each domain that is rendered apart."""
    notes: tuple[str, ...] = ()
    """What a reader of the table must know."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns."""
        return self.main + self.further

    @cached_property
    def row(self) -> dict[str, Row]:
        """Rows by name."""
        return {row.name: row for row in self.rows}

    @cached_property
    def column(self) -> dict[str, Column]:
        """Columns by name."""
        return {column.name: column for column in self.columns}

    def answering(self, row: Row, column: Column) -> Row | None:
        """The row whose cell stands for this one in a column: itself, another whose answer is the same, or none."""
        if column.asks == "classes":  # of the encoder alone, which rows of one pre-training have in common
            return next(other for other in self.rows if other.pretraining == row.pretraining)
        return row if column.labels or row.keeps_decoder else None

    def shared(self, settings: tuple[str, ...] = ()) -> Experiment:
        """The experiment without any row's settings: what decides the frames."""
        return load_experiment(experiment_file(self.experiment), [*self.settings, *settings])

    def experiment_of(self, row: Row, seed: int = 0, settings: tuple[str, ...] = ()) -> Experiment:
        """The experiment with a row's settings and a seed."""
        start = ("finetune.start=encoder_and_decoder",) if row.keeps_decoder else ()
        seeds = (f"pretrain.seed={seed}", f"finetune.seed={seed}")
        return self.shared((*row.settings, *start, *settings, *seeds))

    @property
    def frames(self) -> str:
        """Digest of all that decides the frames."""
        return digest(self.experiment, self.settings, self.validation, self.domain_frames)

    def recipe(self, row: Row, column: Column) -> str:
        """Digest of all that decides a cell, but for its seed; one that was made otherwise is made again."""
        told = (column.labels, column.epochs, column.frames, column.settings, column.asks)
        chosen = (self.main[0].name, self.scales, self.validation, self.domain_frames)
        return digest(self.experiment, self.settings, row.pretraining, row.keeps_decoder, told, chosen)


def digest(*parts: object) -> str:
    """A short name for plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """Cells that one process works out one after the other: rows that share a pre-training, of one seed."""

    rows: tuple[Row, ...]
    seed: int
    columns: tuple[Column, ...]

    def cells(self, study: Study) -> Iterator[tuple[Row, Column]]:
        """Its cells, without those for which another row's stand."""
        for column in self.columns:
            for row in self.rows:
                if study.answering(row, column) is row:
                    yield row, column


def waves(study: Study) -> list[list[Job]]:
    """The order of work: the main columns with the first seed, with the others, then the further columns one by one.

    What a job needs of others, its rows' learning rates, is there once the waves before it are done.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in study.rows:
        groups.setdefault(row.pretraining, []).append(row)
    starts = [tuple(rows) for rows in groups.values()]
    seeds = range(study.seeds)
    return [
        [Job(rows, 0, study.main) for rows in starts],
        [Job(rows, seed, study.main) for seed in seeds[1:] for rows in starts],
        *([Job(rows, seed, (column,)) for seed in seeds for rows in starts] for column in study.further),
    ]


_RANDOM = (
    Row("default_init", "random, PyTorch's defaults", ("finetune.init=torch_default",), "nothing"),
    Row("scratch", "random, as published", ("finetune.init=kaiming_zero_gamma",), "nothing"),
)
_DEPTH_RATE = "pretrain.image_optimizer={kind: adamw, lr: 3e-4}"
LIDAR_DEPTH = ("pretrain.objective=lidar_depth", _DEPTH_RATE)
"""At the contrast's rates the depth net saturates within ten steps, and learns nothing further."""
_PRETRAINED = (
    Row("lidar_depth_decoder", "LiDAR depth, encoder and decoder", LIDAR_DEPTH, keeps_decoder=True),
    Row("lidar_depth", "LiDAR depth, encoder", LIDAR_DEPTH),
    Row("improved", "contrast, `improved`"),
    Row("both", "contrast and LiDAR depth", ("pretrain.objective=both", _DEPTH_RATE), keeps_decoder=True),
    Row("reference", "contrast, `reference`", ("preset=reference", "pretrain.contrast.group_size=4")),
)
_CEILING = Row(
    "ceiling", "ceiling: dense true depth of all pre-training frames", LIDAR_DEPTH, "dense", keeps_decoder=True
)
_ROWS = (_RANDOM[0], *_PRETRAINED[:3], _CEILING, _PRETRAINED[3], _RANDOM[1], _PRETRAINED[4])

_SYNTHETIC = (
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
    "finetune.ignore_beyond=true",
    "evaluate.panels=0",
)
_OTHER_DRIVES = (
    "synthetic.seed=1",
    "synthetic.object_frames=0",
    "synthetic.drives=49",
    "depth_data.train_share=0.02",
)
"""Another world; one of its drives would train, the others evaluate."""
_TUNING_NOTE = (
    "Every row chose finetune.encoder_lr_scale among 1, 0.3 and 0.1 once, with its first seed and the labels of the "
    "first column, on frames that neither train nor are scored here; it holds for all seeds and columns."
)
_RATE_NOTE = (
    "Pre-training on the scans' depth, alone or with contrast, has a learning rate of its own for the image side "
    "(AdamW, 3e-4), found by its training loss alone: at the contrast's the depth net saturates within ten steps."
)
_NO_IMAGENET = (
    "There is no row that starts from ImageNet's labels: no installed package ships such weights, and the study "
    "downloads none."
)

_CHANGES: dict[str, tuple[str, ...]] = {
    "zeroed branches": (),
    "stride 32": ("pretrain.contrast.feature_strides=[32]",),
    "point side stopped": ("pretrain.contrast.symmetric_inter=false", "pretrain.contrast.stop_point_gradient=true"),
    "reflectance alone": ("pretrain.point_encoder.input_features=reflectance",),
    "positions, not range": ("pretrain.point_encoder.input_features=reflectance_xyz",),
    "Hungarian pairs": ("pretrain.contrast.pairing=hungarian",),
    "published sampling": (
        "pretrain.contrast.feature_sampling=align_corners",
        "pretrain.contrast.sampling_extent=image",
    ),
    "strides 8, 16 and 32": ("pretrain.contrast.feature_strides=[8, 16, 32]",),
    "hidden points kept": ("pretrain.contrast.drop_invisible=false",),
    "BGR, std 1": (
        "pretrain.input={channels: bgr, mean: [103.53, 116.28, 123.675], std: [1, 1, 1]}",
        "finetune.allow_input_mismatch=true",
    ),
}
_ZEROED = "pretrain.image_encoder.init=kaiming_zero_gamma"


def _ablation(title: str) -> Row:
    name = "_".join(title.lower().replace(",", "").split())
    return Row(name, title, (_ZEROED, *_CHANGES[title]))


_STREET_32 = Column("labels_32", "32 labels, same camera and LiDAR", 32, 75)
_STREET_128 = Column("labels_128", "128 labels, same camera and LiDAR", 128, 19)
_NO_LABELS = Column("labels_0", "no labels, same camera and LiDAR")

STUDIES = {
    "synthetic": Study(
        experiment="demo",
        settings=_SYNTHETIC,
        rows=_ROWS,
        main=(_STREET_32, _NO_LABELS),
        further=(
            Column("other_camera_32", "32 labels, another camera and LiDAR", 32, 75, "other_camera"),
            Column("classes", "classes from frozen features", asks="classes"),
            _STREET_128,
            Column("night_32", "32 labels, night", 32, 75, "night"),
            Column("rooms_32", "32 labels, rooms", 32, 75, "rooms", ("evaluate.protocols=[whole_frame]",)),
        ),
        validation=_OTHER_DRIVES,
        notes=(_TUNING_NOTE, _RATE_NOTE, _NO_IMAGENET),
    ),
    "real": Study(
        experiment="kitti_sample",
        settings=(
            "pretrain_data.split=within_sequence",  # frames that are scored, and their scans, are not learnt from
            "pretrain.workers=0",
            "pretrain.lidar_depth.decoder_channels=[128, 64, 64, 32]",
            "pretrain.lidar_depth.image_scale=0.25",
            "finetune.workers=0",
            "evaluate.panels=0",
        ),
        rows=tuple(row for row in _ROWS if row is not _CEILING),
        main=(Column("labels_16", "16 labels", 16, 50), Column("labels_0", "no labels")),
        validation=("depth_data.kind=kitti_object", "depth_data.split=within_sequence"),
        notes=(
            "LEAKAGE: all scored frames, and all frames with labels, are of one drive whose car hardly moves: the same "
            "street that pre-training and fine-tuning saw moments before. Read no generalisation from this table. "
            "Intervals are over seeds and frames, not over drives, and frames of one drive are alike.",
            "True depths are those of single scans, of the LiDAR that `lidar_depth` learns from. The scored frames and "
            "their scans are left out of pre-training.",
            "Learning rates were chosen on a few object frames of other places, as far as these can tell.",
            _TUNING_NOTE,
            _RATE_NOTE,
            _NO_IMAGENET,
        ),
    ),
    "ablations": Study(
        experiment="demo",
        settings=_SYNTHETIC,
        rows=tuple(map(_ablation, _CHANGES)),
        validation=_OTHER_DRIVES,
        main=(_STREET_32, _STREET_128),
        seeds=1,
        scales=(1.0,),
        notes=(
            "`zeroed branches` is `improved` from Kaiming with zeroed residual branches; the others differ from it in "
            "one thing each, mostly in one that `improved` adds. One seed each.",
        ),
    ),
}
