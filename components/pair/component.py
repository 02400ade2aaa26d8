from typing import Any

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pair(
    target: str,
    catalogue: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    shards: dsl.Output[dsl.Dataset],
) -> None:
    """Synchronise, project and pack frames.

    Args:
        target: `pairs` (image and scan) or `depth` (image and depth map).
        catalogue: output of ingest.
        config: `pair` section.
        shards: Parquet files.
    """
    import os
    from pathlib import Path
    from typing import Literal, cast

    from simipu_core.config import PairConfig
    from simipu_core.errors import plain_errors
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.pair import pair
    from simipu_core.tracking.mlflow_run import step as track

    with plain_errors(), track(os.environ.get("SIMIPU_STEP", "pair"), out=Path(shards.path)) as run:
        kind = cast(Literal["pairs", "depth"], target)
        pair(Path(catalogue.path), from_parameter(PairConfig, config, "pair"), kind, Path(shards.path), run=run)
