"""The registered versions at a glance."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion as Entity
from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.tracking import promotion, promotion_log
from simipu_core.tracking.mlflow_run import connect, mlflow_errors, shown_uri
from simipu_core.tracking.promotion_log import Entry
from simipu_core.tracking.registry import GATE_TAG


@dataclass(frozen=True)
class Row:
    """One version."""

    version: int
    aliases: tuple[str, ...]
    abs_rel: dict[str, float]
    """By protocol."""
    gate: str
    """`passed`, `failed`, or `-` where it was not judged."""
    experiment: str
    data: str
    """Beginning of the digest of the data it was scored on."""
    made: str
    """Time of registration, UTC."""
    promoted: str
    """When and by whom it last became champion; empty if it never did."""


@dataclass(frozen=True)
class Overview:
    """All versions of a registered model, newest first, and what is wrong with its champion."""

    model: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def show(self, console: Console) -> None:
        """Print the table, then the problems."""
        protocols = list(dict.fromkeys(name for row in self.rows for name in row.abs_rel))
        table = Table(title=f"{self.model}: Abs Rel per protocol (smaller is better)", title_justify="left")
        table.add_column("version", justify="right")
        table.add_column("aliases", style="bold")
        for protocol in protocols:
            table.add_column(protocol, justify="right")
        for column in ("gate", "experiment", "data", "made (UTC)", "became champion"):
            table.add_column(column)
        for row in self.rows:
            scores = (f"{row.abs_rel[name]:.4f}" if name in row.abs_rel else "-" for name in protocols)
            table.add_row(
                str(row.version),
                ", ".join(row.aliases),
                *scores,
                row.gate,
                row.experiment,
                row.data,
                row.made,
                row.promoted,
            )
        console.print(table)
        for problem in self.problems:
            console.print(f"warning: {problem}", style="bold", soft_wrap=True, highlight=False)


def overview(config: TrackingConfig) -> Overview:
    """Read the registry.

    Raises:
        SimipuError: MLflow does not answer, or nothing is registered.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        versions = _versions(client, name)
        history = promotion_log.read(client, name)
        found = promotion.problems(client, name, history)
    if not versions and not found:
        raise SimipuError(
            f"{name}: no version is registered at {shown_uri()}; `make pipeline` makes one, MLFLOW_TRACKING_URI names "
            "another registry."
        )
    promoted = {entry.version: entry for entry in history.entries}
    rows = [_row(version, promoted.get(int(version.version))) for version in versions]
    return Overview(name, tuple(rows), tuple(found))


def _versions(client: MlflowClient, name: str) -> list[Entity]:
    found: list[Entity] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(
            f"name = '{name}'", max_results=1000, order_by=["version_number DESC"], page_token=token
        )
        found += [client.get_model_version(name, version.version) for version in page]  # a search leaves aliases out
        token = page.token or ""
    return found


def _row(version: Entity, promoted: Entry | None) -> Row:
    tags = version.tags
    return Row(
        version=int(version.version),
        aliases=tuple(sorted(version.aliases)),
        abs_rel=json.loads(tags.get("abs_rel_by_protocol", "{}")),
        gate=tags.get(GATE_TAG, "-"),
        experiment=tags.get("experiment", "-"),
        data=tags.get("data_digest", "-")[:8],
        made=f"{datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%d %H:%M}",
        promoted=f"{promoted.at[:16].replace('T', ' ')} by {promoted.by}" if promoted else "",
    )
