"""What a stage may record about itself, whether or not anything is listening."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Run(Protocol):
    """One tracked step."""

    run_id: str | None
    """Id in the tracking server, stored in the manifest of what the step makes."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; nested mappings become dotted names."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, of training step `step` or of the whole run."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a file (picture, table, report) with the run."""

    def log_input(self, name: str, digest: str, context: str) -> None:
        """Record which data came in: its name, content digest and use (`training`, `evaluation`)."""


class SilentRun:
    """A run nobody listens to."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_file(self, path: Path, folder: str = "") -> None: ...

    def log_input(self, name: str, digest: str, context: str) -> None: ...
