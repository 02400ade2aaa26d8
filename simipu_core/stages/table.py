"""Stage: the reports of several experiments as one table."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simipu_core.artifacts import Manifest, read_manifest, write_artifact
from simipu_core.evaluation.metrics import heading
from simipu_core.evaluation.pages import html_table, markdown_table, page
from simipu_core.evaluation.report import Report
from simipu_core.tracking.run import Run, SilentRun

JSON, CSV, MARKDOWN, HTML = "table.json", "table.csv", "table.md", "table.html"


@dataclass(frozen=True)
class _Row:
    experiment: str
    protocol: str
    is_headline: bool
    num_images: int
    scores: dict[str, float]


def table(reports: Mapping[str, Path], out: Path, *, run: Run = SilentRun()) -> Manifest:
    """Write table.json, table.csv, table.md and table.html: one row for each experiment and protocol.

    Rows keep the experiments' order; a score that an experiment does not have stays empty.

    Args:
        reports: artifacts of kind `report`, by experiment.
        out: artifact directory to write, kind `table`.
        run: where the run is recorded.

    Raises:
        SimipuError: one of them is no whole report.
    """
    manifests = {name: read_manifest(path, "report") for name, path in reports.items()}
    rows = [row for name, path in reports.items() for row in _rows(name, path)]
    names = list(dict.fromkeys(metric for row in rows for metric in row.scores))
    with write_artifact(
        out,
        "table",
        inputs={name: manifest.digest for name, manifest in manifests.items()},
        parameters={"experiments": list(reports)},
        licence=" · ".join(dict.fromkeys(manifest.licence for manifest in manifests.values())),
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
        head = ["experiment", "protocol", "images", *(heading(name) for name in names)]
        cells = [head, *(_cells(row, names) for row in rows)]
        (draft.path / MARKDOWN).write_text(markdown_table(cells), encoding="utf-8")
        (draft.path / HTML).write_text(page("Depth", html_table(cells)), encoding="utf-8")
        draft.counts.update(experiments=len(reports), rows=len(rows))
        for name in (JSON, CSV, MARKDOWN, HTML):
            run.log_file(draft.path / name)
        run.log_metrics({f"{row.experiment}/abs_rel": row.scores["abs_rel"] for row in rows if row.is_headline})
    return read_manifest(out, "table")


def _rows(name: str, path: Path) -> list[_Row]:
    report = Report.model_validate_json((path / "report.json").read_text(encoding="utf-8"))
    return [
        _Row(name, protocol, protocol == report.headline, report.num_images, scores)
        for protocol, scores in report.metrics.items()
    ]


def _cells(row: _Row, names: list[str]) -> list[str]:
    scores = (f"{row.scores[name]:.4f}" if name in row.scores else "" for name in names)
    protocol = f"{row.protocol} (headline)" if row.is_headline else row.protocol
    return [row.experiment, protocol, str(row.num_images), *scores]
