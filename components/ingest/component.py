from typing import Any

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def ingest(section: dict[str, Any], catalogue: dsl.Output[dsl.Dataset]) -> None:
    """Check and describe every raw frame.

    Args:
        section: `pretrain_data` or `depth_data`, with the content-addressed raw frames as its root.
        catalogue: one row a frame.
    """
    from pathlib import Path

    from simipu_core.config import SourceConfig
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.ingest import ingest
    from simipu_core.stages.step import step

    with step("ingest", catalogue) as run:
        ingest(from_parameter(SourceConfig, section, "ingest"), Path(catalogue.path), run=run)
