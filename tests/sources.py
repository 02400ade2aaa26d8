"""Sources for tests."""

from typing import Any

from simipu_core.config import validate
from simipu_core.data.sources import AnySource, Source


def any_source(kind: str, **options: Any) -> Source:
    """A source as an experiment file names it.

    Raises:
        SimipuError: there is no such kind, or it has no such option.
    """
    source: Source = validate(AnySource, {"kind": kind, **options}, "source")
    return source
