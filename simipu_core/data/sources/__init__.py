"""The data sets that can be read, one class a file. Nothing else in the code knows which there are."""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from simipu_core.config.section import kind_or
from simipu_core.data.sources.base import Source
from simipu_core.data.sources.kitti import Kitti
from simipu_core.data.sources.kitti_depth import KittiDepth
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.data.sources.kitti_raw import KittiRaw
from simipu_core.data.sources.logs import Logs
from simipu_core.data.sources.mixed import Mixed
from simipu_core.data.sources.nuscenes import NuScenes
from simipu_core.data.sources.nyu import Nyu
from simipu_core.data.sources.nyu_labelled import NyuLabelled
from simipu_core.data.sources.waymo import Waymo
from simipu_core.data.sources.waymo_kitti import WaymoKitti
from simipu_core.errors import SimipuError

__all__ = ["DEFAULT", "SOURCES", "AnySource", "Source", "class_of", "source_named"]

_Listed = (
    Kitti  # the default
    | KittiObject
    | KittiRaw
    | KittiDepth
    | Waymo
    | WaymoKitti
    | NuScenes
    | Nyu
    | NyuLabelled
    | Logs
    | Mixed
)
DEFAULT = Kitti()
"""What is read where `kind` is left out."""


SOURCES: tuple[type[Source], ...] = get_args(_Listed)
_BY_NAME = {each.model_fields["kind"].default: each for each in SOURCES}


def _kind_is_written(values: Any) -> Any:
    """Refuse options of other kinds than the default one where `kind` is left out."""
    for option in values if isinstance(values, dict) and "kind" not in values else ():
        having = [name for name, source in _BY_NAME.items() if option in source.model_fields]
        if having and DEFAULT.kind not in having:
            raise ValueError(
                f"`{option}` is no option of {DEFAULT.kind}, which is read where no `kind` is written; write the kind, "
                f"one of {', '.join(having)}"
            )
    return values


AnySource = Annotated[_Listed, Field(discriminator="kind"), kind_or(DEFAULT.kind), BeforeValidator(_kind_is_written)]
"""A source of any kind, told apart by `kind`."""
Mixed.model_rebuild()


def class_of(name: str) -> type[Source]:
    """The class of the frames of a source, by its name in their catalogue; `Source` itself for a name of no source."""
    return _BY_NAME.get(name, Source)


def source_named(name: str) -> type[Source]:
    """The class that reads the frames of a source, by its name in their catalogue.

    Raises:
        SimipuError: no source has this name.
    """
    if name not in _BY_NAME:
        raise SimipuError(f"{name}: there is no such source (there are {', '.join(_BY_NAME)}); ingest the data again.")
    return _BY_NAME[name]
