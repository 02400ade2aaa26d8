from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def table(
    names: list[str],
    scores: list[str],
    results: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Put the scores of a sweep side by side.

    Args:
        names: names of the experiments.
        scores: what `evaluate` found for each.
        results: the table as JSON, CSV, Markdown and HTML.
        page: the table as a page.
        summary: the table as Markdown.
    """
    import shutil
    from pathlib import Path

    from simipu_core.stages.step import step
    from simipu_core.stages.table import HTML, MARKDOWN, from_text, table

    with step("table", results) as run:
        rows = {name: from_text(text, name) for name, text in zip(names, scores, strict=True)}
        table(rows, Path(results.path), run=run)
        shutil.copyfile(Path(results.path) / HTML, page.path)
        shutil.copyfile(Path(results.path) / MARKDOWN, summary.path)
