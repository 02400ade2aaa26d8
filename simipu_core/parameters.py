"""Configuration sections as Kubeflow pipeline parameters, and back.

A Kubeflow struct parameter has no null and turns whole numbers into floats.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from simipu_core.config import validate

T = TypeVar("T")
NULL = "null"


def to_parameter(section: BaseModel) -> dict[str, Any]:
    """Plain values of a section; null becomes the text ``null``."""
    values: dict[str, Any] = _replace(section.model_dump(mode="json"), None, NULL)
    return values


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that the pipeline handed over, with null again where :func:`to_parameter` wrote the text."""
    made: dict[str, Any] = _replace(dict(values), NULL, None)
    return made


@overload
def from_parameter(annotation: type[T], values: Mapping[str, Any], name: str) -> T: ...
@overload
def from_parameter(annotation: object, values: Mapping[str, Any], name: str) -> Any: ...
def from_parameter(annotation: Any, values: Mapping[str, Any], name: str) -> Any:
    """Read a section back.

    Args:
        annotation: section to read, or a union of sections that tell themselves apart.
        values: what the pipeline handed over.
        name: name of the section, for the message.

    Raises:
        SimipuError: a key or value is refused.
    """
    return validate(annotation, plain(values), name)


def _replace(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
