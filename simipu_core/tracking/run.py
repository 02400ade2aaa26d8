"""What a stage may record about itself, whether or not anything is listening."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from simipu_core.storage import dvc, split_pin


class Run(Protocol):
    """One tracked step."""

    run_id: str | None
    """Id in the tracking server, stored in the manifest of what the step makes."""
    page: str
    """Address at which people see it; empty where nothing is recorded."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; nested mappings become dotted names."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, of training step `step` or of the whole run."""

    def log_file(self, path: Path, folder: str = "", name: str = "") -> None:
        """Keep a file (picture, table, report) with the run, under its own name unless another one is given."""

    def log_input(
        self, name: str, digest: str, context: str, *, source: str | None = None, made_by: str | None = None
    ) -> None:
        """Record which data came in.

        Args:
            name: role, e.g. ``"depth"``.
            digest: content digest.
            context: use: `raw`, `training` or `evaluation`.
            source: address of raw data.
            made_by: run that made the data, also where its step came from the cache.
        """


class SilentRun:
    """A run nobody listens to."""

    run_id: str | None = None
    page: str = ""

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_file(self, path: Path, folder: str = "", name: str = "") -> None: ...

    def log_input(
        self, name: str, digest: str, context: str, *, source: str | None = None, made_by: str | None = None
    ) -> None: ...


def address_digest(uri: str) -> str | None:
    """Digest that an address of raw data names itself: the md5 of a DVC directory, or the sha256 behind it; or None."""
    if directory := dvc.parse(Path(uri)):
        return f"{directory.md5}.dir"
    return split_pin(uri)[1]
