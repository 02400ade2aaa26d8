"""What campaigns have found so far: counts, the number of the next trial, and what broke; in a file."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from simipu_core.errors import SimipuError
from simipu_core.files import write_file

_MOST_NOTES = 50


class Fault(StrEnum):
    """How a promise can be broken."""

    LOST = "lost"
    """A result is gone, half-written or cannot be made any more."""
    DIFFERENT = "different"
    """A result is another than the undisturbed one, and nothing says so."""
    HUNG = "hung"
    """It does not end, or a process lives on."""
    RUNNING = "running"
    """A run is left RUNNING in MLflow."""
    LEFT = "left"
    """A file is left in a temporary folder."""
    TRACEBACK = "traceback"
    """It ends in an exception that is not for people."""


class Trial(NamedTuple):
    """What one trial was, and what it broke."""

    blows: int
    """Kills, damaged inputs, or stages under faults."""
    seen: Mapping[str, int] = MappingProxyType({})
    """What became of them, counted."""
    broken: tuple[tuple[Fault, str], ...] = ()
    """What broke, with words that help to find out why."""


class Counts(BaseModel):
    """Of one target."""

    model_config = ConfigDict(extra="forbid")

    next: int = 0
    """Number of the next trial."""
    blows: int = 0
    seconds: float = 0.0
    seen: dict[str, int] = {}
    broken: dict[Fault, int] = {}
    notes: list[str] = []

    def add(self, trial: Trial, seconds: float) -> None:
        """Count one more trial."""
        self.notes = [*self.notes, *(f"trial {self.next}: {fault}: {note}" for fault, note in trial.broken)]
        self.notes = self.notes[:_MOST_NOTES]
        self.next += 1
        self.blows += trial.blows
        self.seconds = round(self.seconds + seconds, 3)
        self.seen = dict(Counter(self.seen) + Counter(trial.seen))
        self.broken = dict(Counter(self.broken) + Counter(fault for fault, _ in trial.broken))


class Record(BaseModel):
    """All counts: campaign → target."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    campaigns: dict[str, dict[str, Counts]] = {}

    @classmethod
    def load(cls, file: Path, seed: int) -> "Record":
        """Go on from a file, or begin.

        Raises:
            SimipuError: the file is of another seed, or none of these.
        """
        if not file.is_file():
            return cls(seed=seed)
        try:
            found = cls.model_validate_json(file.read_bytes())
        except ValueError:
            raise SimipuError(f"{file}: holds no counts of campaigns; remove it to begin anew.") from None
        if found.seed != seed:
            raise SimipuError(f"{file}: is of seed {found.seed}; give that one, or another file.")
        return found

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        write_file(file, (self.model_dump_json(indent=1) + "\n").encode())

    def of(self, campaign: str, target: str) -> Counts:
        """The counts of a target."""
        return self.campaigns.setdefault(campaign, {}).setdefault(target, Counts())

    def broken(self) -> int:
        """How many promises were broken."""
        return sum(sum(counts.broken.values()) for targets in self.campaigns.values() for counts in targets.values())

    def table(self) -> str:
        """All counts as a Markdown table."""
        faults = list(Fault)
        lines = [
            f"| campaign | target | trials | blows | {' | '.join(faults)} | what became of them | minutes |",
            f"|---|---|{'---:|' * (len(faults) + 2)}---|---:|",
        ]
        for campaign, targets in self.campaigns.items():
            total = Counts()
            for target, each in targets.items():
                lines.append(_row(campaign, target, each))
                total.next, total.blows = total.next + each.next, total.blows + each.blows
                total.seconds += each.seconds
                total.seen = dict(Counter(total.seen) + Counter(each.seen))
                total.broken = dict(Counter(total.broken) + Counter(each.broken))
            lines.append(_row(campaign, "**all**", total))
        return "\n".join(lines) + "\n"


def _row(campaign: str, target: str, counts: Counts) -> str:
    broken = " | ".join(str(counts.broken.get(fault, 0)) for fault in Fault)
    seen = ", ".join(f"{number} {what}" for what, number in sorted(counts.seen.items()))
    return f"| {campaign} | {target} | {counts.next} | {counts.blows} | {broken} | {seen} | {counts.seconds / 60:.1f} |"
