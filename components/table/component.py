from typing import Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def table(  # noqa: D417
    rows: list[str],
    results: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    # one by one: Kubeflow makes lists of artifacts in loops only, and reads no `|`
    report_1: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_2: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_3: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_4: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_5: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_6: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_7: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_8: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_9: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_10: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_11: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_12: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_13: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_14: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_15: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    report_16: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
) -> None:
    """Put the reports of a sweep side by side.

    Args:
        rows: names of the experiments, in the order of the reports.
        results: the table as JSON, CSV, Markdown and HTML.
        page: the table as a page.
        summary: the table as Markdown.
        report_1: report of the first experiment; the others follow.
    """
    import os
    import shutil
    from pathlib import Path

    from simipu_core.errors import plain_errors
    from simipu_core.stages.table import HTML, MARKDOWN, table
    from simipu_core.tracking.mlflow_run import step as track

    given = [
        report_1,
        report_2,
        report_3,
        report_4,
        report_5,
        report_6,
        report_7,
        report_8,
        report_9,
        report_10,
        report_11,
        report_12,
        report_13,
        report_14,
        report_15,
        report_16,
    ]
    step, is_last = os.environ.get("SIMIPU_STEP", "table"), os.environ.get("SIMIPU_LAST_STEP") == "true"
    with plain_errors(), track(step, out=Path(results.path), is_last=is_last) as run:
        reports = [Path(report.path) for report in given if report]
        table(dict(zip(rows, reports, strict=True)), Path(results.path), run=run)
        shutil.copyfile(Path(results.path) / HTML, page.path)
        shutil.copyfile(Path(results.path) / MARKDOWN, summary.path)
