from typing import Any

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def ingest(section: dict[str, Any], catalogue: dsl.Output[dsl.Dataset], page: dsl.Output[dsl.HTML]) -> None:
    """Check and describe every raw frame.

    Args:
        section: `pretrain_data` or `depth_data`, with the content-addressed raw frames as its root.
        catalogue: one row a frame.
        page: what is wrong with the frames, and some of them with their points.
    """
    from pathlib import Path

    from simipu_core.data.sources import AnySource
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.ingest import ingest
    from simipu_core.stages.step import step

    with step("ingest", catalogue) as run:
        source = from_parameter(AnySource, section, "ingest")
        ingest(source, Path(catalogue.path), run=run, page=Path(page.path))
    page.metadata["MLflow"] = run.page
