"""What the doctor says: findings, and the report that holds them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

SHOWN = 5
"""Names listed with a finding."""


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Worth knowing; ingest and pair go on."""
    FAULT = "fault"
    """Do not train on this."""


class Finding(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    """What was looked at, e.g. ``edge alignment``."""
    severity: Severity
    what: str
    """What was found, one sentence."""
    count: int = 0
    """Frames, sequences or causes concerned."""
    names: tuple[str, ...] = ()
    """The first few of them."""
    mend: str = ""
    """What to do."""

    @property
    def name(self) -> str:
        """The check in a setting, e.g. ``edge_alignment``."""
        return self.check.replace(" ", "_")


class BrokenFrame(BaseModel):
    """A frame that ingest leaves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: str
    file: str
    """Relative to the root."""
    reason: str


class Report(BaseModel):
    """Everything found about one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    root: str
    parameters: dict[str, Any]
    """Settings of the source and of pairing that were checked against."""
    frames: int
    """Sound frames."""
    findings: tuple[Finding, ...]
    broken: tuple[BrokenFrame, ...]
    statistics: dict[str, Any]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What should stop a training."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.FAULT)

    @property
    def has_faults(self) -> bool:
        """Whether anything found should stop a training."""
        return bool(self.faults)


def ok(check: str, what: str) -> Finding:
    """Nothing wrong."""
    return Finding(check=check, severity=Severity.OK, what=what)


def problem(check: str, severity: Severity, what: str, names: Iterable[str], mend: str) -> Finding:
    """Something wrong with the named frames or sequences."""
    listed = list(names)
    return Finding(check=check, severity=severity, what=what, count=len(listed), names=tuple(listed[:SHOWN]), mend=mend)


def by_share(count: int, total: int, allowed: float) -> Severity:
    """A warning up to the share of frames that the settings allow to be lost, a fault beyond it."""
    return Severity.WARNING if count <= allowed * total else Severity.FAULT
