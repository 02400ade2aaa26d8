from typing import Any, NamedTuple

from kfp import dsl

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)  # type: ignore[untyped-decorator]
def pair(
    target: str,
    section: dict[str, Any],
    catalogue: dsl.Input[dsl.Dataset],
    shards: dsl.Output[dsl.Dataset],
) -> NamedTuple("Address", [("address", str)]):  # type: ignore[valid-type]
    """Synchronise, project and pack frames.

    Args:
        target: `pairs` (image and scan) or `depth` (image and depth map).
        section: `pair`.
        catalogue: output of ingest.
        shards: Parquet files.

    Returns:
        Their address, for a step that only hands it on.
    """
    from pathlib import Path
    from typing import Literal, cast

    from simipu_core.config import PairConfig
    from simipu_core.parameters import from_parameter
    from simipu_core.stages.pair import pair
    from simipu_core.stages.step import step

    with step("pair", shards) as run:
        kind = cast(Literal["pairs", "depth"], target)
        pair(Path(catalogue.path), from_parameter(PairConfig, section, "pair"), kind, Path(shards.path), run=run)
    return (shards.uri,)
