"""The pipeline's parameters: what people fill in or turn in the form that Kubeflow shows.

All other settings are compiled in. A number stands in one place only: what the form holds is left out of the compiled
sections and put back inside the step, which validates the whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

Value = str | int | float


@dataclass(frozen=True)
class Field:
    """One parameter."""

    name: str
    meaning: str
    default: Value | None
    """None: must be filled in; always a text."""
    keys: tuple[str, ...] = ()
    """Settings that it stands for."""

    @property
    def kind(self) -> type:
        """Type of its value."""
        return str if self.default is None else type(self.default)


_DIALS: dict[str, tuple[tuple[str, ...], str]] = {
    "model_name": (("tracking.model_name",), "Registered model in MLflow that gets a new version from this run."),
    "promotion": (
        ("tracking.promotion.mode",),
        "What follows from the comparison with the champion: `report` tells, `promote` makes a model that passes the "
        "champion, `off` does not compare.",
    ),
    "pretrain_epochs": (("pretrain.epochs",), "Passes over the image-scan pairs."),
    "pretrain_lr": (("pretrain.image_optimizer.lr",), "Learning rate of the image encoder in pre-training."),
    "finetune_epochs": (("finetune.epochs",), "Passes over the depth frames."),
    "finetune_max_lr": (("finetune.schedule.max_lr",), "Peak of the one-cycle learning rate in fine-tuning."),
    "finetune_max_frames": (
        ("finetune.max_frames",),
        "Use only this many training frames, evenly spread over the set; 0 uses all.",
    ),
    "seed": (("pretrain.seed", "finetune.seed"), "Seed of initial weights, sample order and augmentation."),
}
_NAME = "Name of this run's results in tables, MLflow and the registry."
_URI = "Address of the raw frames ({root}), of one fixed version: s3://bucket/…, or the object of a DVC directory."


Rows = Experiment | Sequence[Experiment]
"""What one pipeline computes: an experiment, or those of a sweep."""


def as_rows(rows: Rows) -> list[Experiment]:
    """The experiments of a pipeline."""
    return [rows] if isinstance(rows, Experiment) else list(rows)


def title(rows: Rows) -> str:
    """Name of what the pipeline computes, for people."""
    (first, *others) = as_rows(rows)
    return "sweep" if others else first.experiment


def handed_singly(section: str) -> dict[str, str]:
    """Settings of a section that its step gets as inputs of their own: name of the input → key in the section."""
    keys = (key for keys, _ in _DIALS.values() for key in keys)
    inside = [key.partition(".")[2] for key in keys if key.startswith(f"{section}.")]
    return {key.rpartition(".")[2]: key for key in inside}


def value_of(row: Experiment, key: str) -> Value:
    """Value of a setting as a parameter, which has no null: 0 stands for it."""
    value: Any = row
    for part in key.split("."):
        value = getattr(value, part)
    return 0 if value is None else value


def dials(rows: Sequence[Experiment]) -> list[Field]:
    """Settings that people turn, as far as all rows agree about them; others are compiled in, each row with its own.

    Args:
        rows: experiments of one pipeline.
    """
    found = []
    for name, (keys, meaning) in _DIALS.items():
        read = {(row.experiment, key): value_of(row, key) for row in rows for key in keys if _is_read(row, key)}
        if len(set(read.values())) == 1:
            used = tuple(key for key in keys if any(key == other for _, other in read))
            found.append(Field(name, meaning, next(iter(read.values())), used))
    return found


def _is_read(row: Experiment, key: str) -> bool:
    return row.finetune.needs_pretraining or not key.startswith("pretrain.")


def uri_names(rows: Sequence[Experiment]) -> dict[str, str]:
    """Parameters with the addresses of raw frames: name → root in the experiments.

    One experiment has `depth_uri` and, where it pre-trains, `pretrain_uri`; several have one for each root, named
    like its last folder.

    Raises:
        SimipuError: two roots would give one name.
    """
    if len(rows) == 1:
        (row,) = rows
        upper = {"pretrain_uri": row.pretrain_data.root} if row.finetune.needs_pretraining else {}
        return upper | {"depth_uri": row.depth_data.root}
    names: dict[str, str] = {}
    for row in rows:
        used = [row.pretrain_data.root] if row.finetune.needs_pretraining else []
        for root in [*used, row.depth_data.root]:
            name = re.sub(r"\W", "_", PurePosixPath(root).name).lower() + "_uri"
            if names.setdefault(name, root) != root:
                raise SimipuError(f"roots {names[name]} and {root}: both would be called {name}; rename one folder.")
    return names


def fields(rows: Sequence[Experiment], uris: dict[str, str] | None = None) -> list[Field]:
    """All parameters of the pipeline of these rows, in the order of the form.

    Args:
        rows: one experiment, or those of a sweep.
        uris: addresses of raw frames by root, as defaults.
    """
    known = uris or {}
    places = [Field(name, _URI.format(root=root), known.get(root)) for name, root in uri_names(rows).items()]
    places.sort(key=lambda field: field.default is not None)
    name = [Field("experiment", _NAME, rows[0].experiment)] if len(rows) == 1 else []
    return [*places, *name, *dials(rows)]
