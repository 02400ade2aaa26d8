"""What is found, as files: one a cell, and one for each learning rate that a row tried."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from benchmarks.label_efficiency.studies import Column, Row, Study
from simipu_core.config import Section
from simipu_core.errors import SimipuError
from simipu_core.files import write_file


class Cost(Section):
    """What a cell took; its pre-training counts in every cell that starts from it."""

    pretraining_passes: int = 0
    """Images that went through the encoder and back."""
    pretraining_seconds: float = 0.0
    """Of one core."""
    finetuning_passes: int = 0
    finetuning_seconds: float = 0.0
    """Of one core; of a linear probe, its fit."""
    scoring_seconds: float = 0.0
    """Of one core."""


class Cell(Section):
    """One row, column and seed, with scores by drive, or by frame where all frames are of one drive."""

    row: str
    column: str
    seed: int
    recipe: str
    """See `Study.recipe`."""
    revision: str
    """Of the code."""
    encoder_lr_scale: float | None = None
    unit: Literal["drive", "frame"]
    units: tuple[str, ...]
    frames: tuple[int, ...]
    """Scored frames of each unit."""
    abs_rel: tuple[float, ...] = ()
    """Mean over the frames of each unit."""
    classes: tuple[str, ...] = ()
    intersection: tuple[tuple[int, ...], ...] = ()
    """Pixels of each unit and class where truth and answer agree."""
    union: tuple[tuple[int, ...], ...] = ()
    """Pixels of each unit and class where truth or answer is it."""
    cost: Cost


class Trial(Section):
    """What a row scored on the validation frames with one learning rate of its encoder."""

    row: str
    encoder_lr_scale: float
    recipe: str
    revision: str
    abs_rel: float
    finetuning_seconds: float
    """Of one core."""


RecordT = TypeVar("RecordT", Cell, Trial)


@dataclass(frozen=True)
class Records:
    """The files of a study below one folder."""

    study: Study
    folder: Path

    def cell(self, row: Row, column: Column, seed: int) -> Cell | None:
        """What was found, if it was found by today's recipe."""
        return self._read(self._cell_file(row.name, column.name, seed), Cell, self.study.recipe(row, column))

    def trial(self, row: Row, scale: float) -> Trial | None:
        """What was found, if it was found by today's recipe."""
        return self._read(self._trial_file(row.name, scale), Trial, self.study.recipe(row, self.study.main[0]))

    def scale(self, row: Row) -> float | None:
        """The row's choice, once all scales are tried; the larger one of equals."""
        if len(self.study.scales) == 1:
            return self.study.scales[0]
        trials = [trial for scale in self.study.scales if (trial := self.trial(row, scale))]
        if len(trials) < len(self.study.scales):
            return None
        return min(trials, key=lambda trial: (trial.abs_rel, -trial.encoder_lr_scale)).encoder_lr_scale

    def keep(self, record: Cell | Trial) -> None:
        """Write a record."""
        file = (
            self._cell_file(record.row, record.column, record.seed)
            if isinstance(record, Cell)
            else self._trial_file(record.row, record.encoder_lr_scale)
        )
        write_file(file, (record.model_dump_json(exclude_defaults=True) + "\n").encode())

    def outdated(self) -> int:
        """Number of cells that were found by another recipe."""
        files = {
            self._cell_file(row.name, column.name, seed)
            for row in self.study.rows
            for column in self.study.columns
            for seed in range(self.study.seeds)
            if self.cell(row, column, seed)
        }
        return sum(1 for file in self.folder.glob("*/*-*.json") if file.parent.name != "tuning" and file not in files)

    def _cell_file(self, row: str, column: str, seed: int) -> Path:
        return self.folder / column / f"{row}-{seed}.json"

    def _trial_file(self, row: str, scale: float) -> Path:
        return self.folder / "tuning" / f"{row}-{scale:g}.json"

    def _read(self, file: Path, kind: type[RecordT], recipe: str) -> RecordT | None:
        if not file.is_file():
            return None
        try:
            record = kind.model_validate_json(file.read_bytes())
        except ValidationError:
            raise SimipuError(f"{file}: is no {kind.__name__} of a study; remove it, and it is made again.") from None
        return record if record.recipe == recipe else None
