"""What one pipeline computes: an experiment, or those of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from simipu_core.experiment import Experiment

Rows = Experiment | Sequence[Experiment]


def as_rows(rows: Rows) -> list[Experiment]:
    """The experiments of a pipeline."""
    return [rows] if isinstance(rows, Experiment) else list(rows)


def title(rows: Rows) -> str:
    """Name of what the pipeline computes, for people."""
    (first, *others) = as_rows(rows)
    return "sweep" if others else first.experiment


def roots(row: Experiment) -> dict[str, str]:
    """Where an experiment's raw frames lie, by the section that says so; only of those that it reads."""
    upper = {"pretrain_data": row.pretrain_data.root} if row.finetune.needs_pretraining else {}
    return upper | {"depth_data": row.depth_data.root}


def uris(addresses: Mapping[str, Any]) -> list[str]:
    """Every address among the pipeline's parameters that :func:`pipelines.raw.raw_uris` gives."""
    return [uri for value in addresses.values() for uri in (value.values() if isinstance(value, dict) else [value])]
