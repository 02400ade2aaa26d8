"""The version that a new model is compared with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Champion:
    """The version to compare with."""

    version: int
    weights: Path | None
    """Its safetensors file; None where it cannot be had."""
    problem: str | None = None
    """Sentence that says why it cannot be compared with, or must not be replaced by the gate."""
