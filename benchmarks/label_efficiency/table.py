"""The table of a study, from the files of its cells alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.label_efficiency.records import Cell, Cost, Records
from benchmarks.label_efficiency.studies import Column, Row, Study
from simipu_core.errors import SimipuError
from simipu_core.evaluation.intervals import bootstrap_means, interval

CONTROLS = ("default_init", "scratch", "ceiling")
"""Rows with which the others are compared."""
Drawn = NDArray[np.float64]


def table(records: Records) -> dict[str, Any]:
    """All that is there, column by column.

    A row is compared with a control over the seeds that both have, the same seeds and drives drawn for both.

    Raises:
        SimipuError: cells of one column were scored on different frames.
    """
    study = records.study
    return {
        "study": study_settings(study),
        "notes": list(study.notes),
        "encoder_lr_scale": {row.name: scale for row in study.rows if (scale := records.scale(row)) is not None},
        "columns": [_column(records, column) for column in study.columns],
    }


def study_settings(study: Study) -> list[str]:
    """What all cells have in common."""
    return [study.experiment, *study.settings]


def _column(records: Records, column: Column) -> dict[str, Any]:
    cells = {row.name: found for row in records.study.rows if (found := _cells(records, row, column))}
    _check_frames(column, [cell for found in cells.values() for cell in found.values()])
    rows = []
    for name, found in cells.items():
        seeds = sorted(found)
        rows.append(
            {
                "row": name,
                "seeds": seeds,
                "score": round(float(mean(list(found.values()))), 4),
                "interval": _rounded(interval(drawn_means(list(found.values())))),
                "per_seed": _rounded(mean([found[seed]]) for seed in seeds),
                "better_than": {
                    control: gain
                    for control in CONTROLS
                    if control != name and control in cells and (gain := _gain(found, cells[control]))
                },
                "cost": _cost([found[seed].cost for seed in seeds]),
            }
        )
    return {"column": column.name, "title": column.title, "measure": _measure(column), "rows": rows}


def _cells(records: Records, row: Row, column: Column) -> dict[int, Cell]:
    """By seed."""
    answering = records.study.answering(row, column)
    if answering is None:
        return {}
    found = {seed: records.cell(answering, column, seed) for seed in range(records.study.seeds)}
    return {seed: cell for seed, cell in found.items() if cell}


def _measure(column: Column) -> str:
    return "mean IoU" if column.asks == "classes" else "Abs Rel"


def _check_frames(column: Column, cells: Sequence[Cell]) -> None:
    if len({(cell.units, cell.frames) for cell in cells}) > 1:
        raise SimipuError(
            f"column {column.name}: its cells were scored on different frames; remove those of the older revision, "
            "and run the study again."
        )


def mean(cells: Sequence[Cell]) -> float:
    """The score over some seeds."""
    return float(_score(cells, lambda values: values.mean(keepdims=True)).item())


def drawn_means(cells: Sequence[Cell]) -> Drawn:
    """Scores over resampled seeds and drives, the same draws for all rows with as many seeds."""
    groups = np.arange(len(cells[0].units))
    return _score(cells, lambda values: bootstrap_means(values, groups))


def _score(cells: Sequence[Cell], average: Callable[[Drawn], Drawn]) -> Drawn:
    """Abs Rel over frames, or the mean over classes of intersection over union, from averages of (S, U) values."""
    if cells[0].abs_rel:
        frames = np.array([cell.frames for cell in cells], np.float64)
        errors = np.array([cell.abs_rel for cell in cells], np.float64)
        return np.asarray(average(errors * frames) / average(frames))
    hits, unions = (np.array([getattr(cell, name) for cell in cells], np.float64) for name in ("intersection", "union"))
    present = [number for number in range(len(cells[0].classes)) if unions[..., number].any()]
    each = [average(hits[..., number]) / np.maximum(average(unions[..., number]), 1e-9) for number in present]
    return np.asarray(np.mean(each, axis=0))


def _gain(found: dict[int, Cell], control: dict[int, Cell]) -> dict[str, Any] | None:
    """By how much a row is better over the seeds that it shares with a control."""
    seeds = sorted(found.keys() & control.keys())
    if not seeds:
        return None
    own, other = ([cells[seed] for seed in seeds] for cells in (found, control))
    if own[0].abs_rel:  # share of the control's error
        gain, drawn = 1 - mean(own) / mean(other), 1 - drawn_means(own) / drawn_means(other)
    else:  # difference of mean IoU
        gain, drawn = mean(own) - mean(other), drawn_means(own) - drawn_means(other)
    return {"seeds": seeds, "by": round(gain, 4), "interval": _rounded(interval(drawn))}


def _cost(costs: Sequence[Cost]) -> dict[str, float]:
    """Mean over the seeds."""
    return {name: round(float(np.mean([getattr(cost, name) for cost in costs])), 1) for name in Cost.model_fields}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def markdown(found: dict[str, Any], study: Study) -> str:
    """The table for people: one for each column of the study."""
    lines: list[str] = []
    for column in found["columns"]:
        if not column["rows"]:
            continue
        better = [name for name in CONTROLS if any(name in row["better_than"] for row in column["rows"])]
        unit = "%" if column["measure"] == "Abs Rel" else "points"
        heads = ["start", "seeds", column["measure"], *(f"better than {name}, {unit}" for name in better)]
        heads += ["images pre-trained", "core-minutes"]
        lines += [f"### {column['title']}", "", _line(heads), _line(["---"] * len(heads))]
        for row in column["rows"]:
            cost = row["cost"]
            minutes = sum(value for name, value in cost.items() if name.endswith("seconds")) / 60
            cells = [study.row[row["row"]].title, str(len(row["seeds"])), _shown(row["score"], row["interval"])]
            for control in better:
                gain = row["better_than"].get(control)
                cells.append(_percent(gain["by"], gain["interval"]) if gain else "")
            lines.append(_line([*cells, f"{cost['pretraining_passes']:.0f}", f"{minutes:.1f}"]))
        lines.append("")
    chosen = [f"{study.row[name].title} {scale:g}" for name, scale in found["encoder_lr_scale"].items()]
    notes = [*found["notes"], *([f"Chosen learning rates of the encoder: {' · '.join(chosen)}."] if chosen else [])]
    return "\n".join([*lines, *(f"* {note}" for note in notes)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: float, bounds: Sequence[float]) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _percent(value: float, bounds: Sequence[float]) -> str:
    return f"{100 * value:.0f} [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]"
