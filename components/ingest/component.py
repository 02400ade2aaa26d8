from typing import Any

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def ingest(uri: str, source: dict[str, Any], catalogue: dsl.Output[dsl.Dataset]) -> None:
    """Check and describe every raw frame.

    Args:
        uri: content-addressed raw data.
        source: `pretrain_data` or `depth_data` section, without its root.
        catalogue: one row a frame.
    """
    import os
    from pathlib import Path

    from simipu_core.data.sources import AnySource
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.ingest import ingest
    from simipu_core.tracking.mlflow_run import step as track

    step = os.environ.get("SIMIPU_STEP", "ingest")
    with plain_errors(), track(step, out=Path(catalogue.path)) as run:
        ingest(from_parameter(AnySource, source, step), Path(catalogue.path), root=uri, run=run)
