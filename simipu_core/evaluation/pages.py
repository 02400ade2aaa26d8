"""Reports for people: Markdown tables and pages that need no other file."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from simipu_core.evaluation.metrics import METRICS, heading
from simipu_core.evaluation.report import Report

Cells = Sequence[Sequence[str]]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
img {{ width: 100%; margin: .5em 0 }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def markdown(report: Report, name: str) -> str:
    """All scores of a report as a Markdown table, with the headline above it.

    Args:
        report: an evaluation.
        name: of the experiment.
    """
    return f"# {name}\n\n{_headline(report)}\n\n{markdown_table(_cells(report))}"


def html(report: Report, name: str, panels: Path) -> str:
    """A report as one page: headline, scores, pictures.

    Args:
        report: an evaluation.
        name: of the experiment.
        panels: folder of PNG files, which are put into the page.
    """
    pictures = [
        f'<img alt="{escape(file.stem)}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in sorted(panels.glob("*.png"))
    ]
    explained = "<p>Image, measured depth over the image, prediction:</p>" if pictures else ""
    body = [f"<p>{escape(_headline(report))}</p>", html_table(_cells(report)), explained, *pictures]
    return page(name, "\n".join(body))


def page(title: str, body: str) -> str:
    """A whole HTML page around a body, in which text must have been escaped."""
    return _PAGE.format(title=escape(title), body=body)


def markdown_table(cells: Cells) -> str:
    """Markdown table; the first row is the head, all but the first column are right-aligned."""
    head, *rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    rule = "|" + "|".join(["---", *["---:"] * (len(cells[0]) - 1)]) + "|"
    return "\n".join([head, rule, *rows]) + "\n"


def html_table(cells: Cells) -> str:
    """HTML table; the first row is the head."""
    rows = [
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(cells, ["th"] + ["td"] * (len(cells) - 1), strict=True)
    ]
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _headline(report: Report) -> str:
    flip = ", averaged with the mirrored image" if report.flip else ""
    return f"Abs Rel {report.abs_rel:.4f} under {report.headline} ({report.num_images} images{flip})."


def _cells(report: Report) -> Cells:
    predictors = {"model": report.metrics, **report.baselines}
    rows = [
        [f"{predictor.replace('_', ' ')}, {protocol}", *(f"{scores[name]:.4f}" for name in METRICS if name in scores)]
        for predictor, by_protocol in predictors.items()
        for protocol, scores in by_protocol.items()
    ]
    known = next(iter(report.metrics.values()))
    return [["", *(heading(name) for name in METRICS if name in known)], *rows]
