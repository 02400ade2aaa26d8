"""Reports for people: Markdown, and pages that need no other file. Both are read in panels of 300 pixels, too."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from simipu_core.evaluation.metrics import METRICS, heading
from simipu_core.evaluation.report import Report

Cells = Sequence[Sequence[str]]
Facts = Mapping[str, str]
"""What is said → in words, or the address of a page."""

_HEADLINE = "abs_rel"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 70em; padding: 0 1em; color: #222;
  overflow-wrap: anywhere }}
h1 {{ font-size: 1.5em }} h2 {{ font-size: 1.1em; margin: 1.5em 0 .3em }}
ul {{ padding: 0; list-style: none }}
table {{ border-collapse: collapse; margin: .3em 0 1em }}
th, td {{ padding: .3em 0 .3em 1.2em; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd;
  overflow-wrap: normal; font-variant-numeric: tabular-nums }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; overflow-wrap: anywhere; min-width: 5em }}
.texts {{ width: 100% }} .texts th, .texts td {{ text-align: left; overflow-wrap: anywhere }}
.ok {{ color: #176f2c }} .warning {{ color: #8a5a00 }} .fault {{ color: #b3261e; font-weight: 600 }}
.texts .ok, .texts .warning, .texts .fault {{ overflow-wrap: normal }}
small {{ color: #555 }} figure {{ margin: 1.5em 0 }} img {{ width: 100%; margin: .5em 0; display: block }}
@media (max-width: 450px) {{
  body {{ font-size: 13px; padding: 0 .7em }}
  th, td {{ padding-left: .5em }}
  .texts th {{ display: none }} .texts td {{ display: block; padding: 0; border: 0 }}
  .texts tr {{ display: block; padding: .4em 0; border-bottom: 1px solid #ddd }}
}}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def markdown(report: Report, name: str, outcome: Facts) -> str:
    """A report as Markdown: what matters first, then all scores of each protocol.

    Args:
        report: an evaluation.
        name: of the experiment.
        outcome: what became of the model.
    """
    facts = markdown_facts(_facts(report, outcome))
    return f"# {plain(name)}\n\n{facts}\n\n{markdown_tables(_tables(report))}"


def html(report: Report, name: str, outcome: Facts, panels: Path) -> str:
    """The same as one page, with pictures.

    Args:
        report: an evaluation.
        name: of the experiment.
        outcome: what became of the model.
        panels: folder of PNG files, which are put into the page.
    """
    pictures = [
        f'<img alt="{escape(file.stem)}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in sorted(panels.glob("*.png"))
    ]
    explained = ["<h2>Image, measured depth over the image, prediction</h2>"] if pictures else []
    parts = [html_facts(_facts(report, outcome)), html_tables(_tables(report)), *explained, *pictures]
    return page(name, "\n".join(parts))


def page(title: str, body: str) -> str:
    """A whole HTML page around a body, in which text must have been escaped."""
    return _PAGE.format(title=escape(title), body=body)


def plain(text: str) -> str:
    """Text that Markdown shows as it is: underscores in names would make them italic."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)


def markdown_facts(facts: Facts) -> str:
    """A Markdown list; addresses of pages become links."""
    return "\n".join(
        f"- **{label}:** {f'[open]({text})' if _is_address(text) else plain(text)}" for label, text in facts.items()
    )


def html_facts(facts: Facts) -> str:
    """An HTML list. Addresses are not links: Kubeflow shows pages in a frame in which these do nothing."""
    lines = (f"<li><b>{escape(label)}:</b> {escape(text)}</li>" for label, text in facts.items())
    return "<ul>\n" + "\n".join(lines) + "\n</ul>"


def markdown_tables(tables: Mapping[str, Cells]) -> str:
    """Markdown tables below their titles."""
    return "\n".join(f"## {plain(title)}\n\n{markdown_table(cells)}" for title, cells in tables.items())


def html_tables(tables: Mapping[str, Cells]) -> str:
    """HTML tables below their titles."""
    return "\n".join(f"<h2>{escape(title)}</h2>\n{html_table(cells)}" for title, cells in tables.items())


def markdown_table(cells: Cells) -> str:
    """Markdown table; the first row is the head, all but the first column are right-aligned.

    These begin with a space that does not break, as Kubeflow shows cells without any distance.
    """
    head, *rows = [
        "| " + " | ".join([plain(row[0]), *(f"&nbsp;{plain(cell)}" for cell in row[1:])]) + " |" for row in cells
    ]
    rule = "|" + "|".join(["---", *["---:"] * (len(cells[0]) - 1)]) + "|"
    return "\n".join([head, rule, *rows]) + "\n"


def html_table(cells: Cells) -> str:
    """HTML table; the first row is the head. Names may be broken at their underscores."""
    rows = [
        "<tr>" + "".join(f"<{tag}>{escape(cell).replace('_', '_<wbr>')}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(cells, ["th"] + ["td"] * (len(cells) - 1), strict=True)
    ]
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def number(value: float) -> str:
    """A score for a table."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _facts(report: Report, outcome: Facts) -> Facts:
    """What a person wants to know first."""
    low, high = report.intervals.get(report.headline, (None, None))
    interval = "" if low is None else f", 95% interval {low:.4f}–{high:.4f}"
    others = {_label(name): f"{by[report.headline][_HEADLINE]:.4f}" for name, by in report.baselines.items()}
    flip = ", averaged with the mirrored image" if report.flip else ""
    scored = f"{report.headline}, {report.num_images} images{flip}"
    return {"Abs Rel": f"{report.abs_rel:.4f}{interval}", **others, **outcome, "Scored": scored}


def _label(predictor: str) -> str:
    return predictor.replace("_", " ").capitalize()


def _tables(report: Report) -> dict[str, Cells]:
    """By protocol; with a row a metric and a column a predictor they are narrow."""
    return {protocol: _table(report, protocol) for protocol in report.metrics}


def _table(report: Report, protocol: str) -> Cells:
    predictors = {"model": report.metrics, **report.baselines}
    columns = {name: by[protocol] for name, by in predictors.items() if protocol in by}
    rows = [
        name for name in sorted(METRICS, key=_HEADLINE.__ne__) if any(name in scores for scores in columns.values())
    ]
    return [
        ["", *(name.replace("_", " ") for name in columns)],
        *(
            [heading(name), *(number(scores[name]) if name in scores else "" for scores in columns.values())]
            for name in rows
        ),
    ]
