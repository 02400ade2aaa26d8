"""Stage: the reports of several experiments as one table."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from simipu_core.artifacts import Manifest, read_manifest, write_artifact
from simipu_core.config import validate
from simipu_core.evaluation.metrics import heading
from simipu_core.evaluation.pages import Cells, html_tables, markdown_tables, number, page
from simipu_core.evaluation.report import Report, Scores
from simipu_core.tracking.run import Run, SilentRun
from simipu_core.yaml_files import parse_yaml

JSON, CSV, MARKDOWN, HTML = "table.json", "table.csv", "table.md", "table.html"
_SHOWN = ("abs_rel", "rmse", "a1")
"""Metrics that fit into a narrow page; all of them are in the other two files."""


class ReportScores(BaseModel):
    """What a table takes from a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    headline: str
    """Protocol of the headline Abs Rel."""
    num_images: int
    metrics: dict[str, Scores]
    """By protocol."""
    digest: str
    """Of the report."""
    licence: str
    """Of its data."""


def read_scores(report: Path) -> ReportScores:
    """Scores of a report.

    Raises:
        SimipuError: it is no whole report.
    """
    manifest = read_manifest(report, "report")
    read = Report.model_validate_json((report / "report.json").read_text(encoding="utf-8"))
    return ReportScores(
        headline=read.headline,
        num_images=read.num_images,
        metrics=read.metrics,
        digest=manifest.digest,
        licence=manifest.licence,
    )


def to_text(scores: ReportScores) -> str:
    """Scores as a parameter of the pipeline: YAML on one line.

    Kubeflow puts it into a list inside JSON by mere replacing, so it holds neither double quotes nor backslashes.
    """
    plain = scores.model_dump() | {"licence": scores.licence.replace('"', "'").replace("\\", "/")}
    return yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False).strip()


def from_text(text: str, name: str) -> ReportScores:
    """Scores out of :func:`to_text`.

    Args:
        text: the parameter.
        name: of the experiment, for the message.

    Raises:
        SimipuError: it holds none.
    """
    return validate(ReportScores, parse_yaml(text), name)


@dataclass(frozen=True)
class _Row:
    experiment: str
    protocol: str
    is_headline: bool
    num_images: int
    scores: dict[str, float]


def table(scores: Mapping[str, ReportScores], out: Path, *, run: Run = SilentRun()) -> Manifest:
    """Write table.json and table.csv, with a row for each experiment and protocol, and table.md and table.html.

    Rows keep the experiments' order; a score that an experiment does not have stays empty. For people each protocol has
    a table of its own, with the main metrics.

    Args:
        scores: those of each experiment's report.
        out: artifact directory to write, kind `table`.
        run: where the run is recorded.
    """
    rows = [row for name, each in scores.items() for row in _rows(name, each)]
    names = list(dict.fromkeys(metric for row in rows for metric in row.scores))
    with write_artifact(
        out,
        "table",
        inputs={name: each.digest for name, each in scores.items()},
        parameters={"experiments": list(scores)},
        licence=" · ".join(dict.fromkeys(each.licence for each in scores.values())),
        mlflow_run_id=run.run_id,
    ) as draft:
        plain = [
            {"experiment": row.experiment, "protocol": row.protocol, "images": row.num_images, **row.scores}
            for row in rows
        ]
        (draft.path / JSON).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        with (draft.path / CSV).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["experiment", "protocol", "images", *names], restval="")
            writer.writeheader()
            writer.writerows(plain)
        tables = _tables(rows)
        (draft.path / MARKDOWN).write_text(markdown_tables(tables), encoding="utf-8")
        (draft.path / HTML).write_text(page("Depth", html_tables(tables)), encoding="utf-8")
        draft.counts.update(experiments=len(scores), rows=len(rows))
        for name in (JSON, CSV, MARKDOWN, HTML):
            run.log_file(draft.path / name)
        run.log_metrics({f"{row.experiment}/abs_rel": row.scores["abs_rel"] for row in rows if row.is_headline})
    return read_manifest(out, "table")


def _rows(name: str, scores: ReportScores) -> list[_Row]:
    return [
        _Row(name, protocol, protocol == scores.headline, scores.num_images, values)
        for protocol, values in scores.metrics.items()
    ]


def _tables(rows: list[_Row]) -> dict[str, Cells]:
    """A table for each protocol, by its title; headline protocols come first."""
    ordered = sorted(rows, key=lambda row: not row.is_headline)
    tables: dict[str, Cells] = {}
    for protocol in dict.fromkeys(row.protocol for row in ordered):
        shown = [row for row in rows if row.protocol == protocol]
        names = [name for name in _SHOWN if any(name in row.scores for row in shown)]
        headline = " (headline)" if any(row.is_headline for row in shown) else ""
        images = " / ".join(dict.fromkeys(str(row.num_images) for row in shown))
        title = f"{protocol}{headline}, {images} images"
        tables[title] = [["", *map(heading, names)], *(_cells(row, names) for row in shown)]
    return tables


def _cells(row: _Row, names: list[str]) -> list[str]:
    return [row.experiment, *(number(row.scores[name]) if name in row.scores else "" for name in names)]
