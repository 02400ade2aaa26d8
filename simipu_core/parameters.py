"""Configuration sections as Kubeflow pipeline parameters, and back.

A Kubeflow struct parameter has no null and turns whole numbers into floats.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from simipu_core.config import validate

T = TypeVar("T")
_NULL = "null"
_NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


def to_parameter(section: BaseModel, without: Iterable[str] = ()) -> dict[str, Any]:
    """Plain values of a section; null becomes the text ``null``.

    Args:
        section: section to hand over.
        without: dotted keys to leave out, which are handed over on their own.
    """
    values: dict[str, Any] = _replace(section.model_dump(mode="json"), None, _NULL)
    for key in without:
        *path, last = key.split(".")
        node = values
        for part in path:
            node = node[part]
        del node[last]
    return values


@overload
def from_parameter(
    annotation: type[T], values: Mapping[str, Any], name: str, changes: Mapping[str, Any] = ...
) -> T: ...
@overload
def from_parameter(
    annotation: object, values: Mapping[str, Any], name: str, changes: Mapping[str, Any] = ...
) -> Any: ...
def from_parameter(
    annotation: Any, values: Mapping[str, Any], name: str, changes: Mapping[str, Any] = _NO_CHANGES
) -> Any:
    """Read a section back.

    Args:
        annotation: section to read, or a union of sections that tell themselves apart.
        values: what the pipeline handed over.
        name: name of the section, for the message.
        changes: values by dotted key that come on top.

    Raises:
        SimipuError: a key or value is refused.
    """
    whole: dict[str, Any] = _replace(dict(values), _NULL, None)
    for key, value in changes.items():
        *path, last = key.split(".")
        node = whole
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return validate(annotation, whole, name)


def _replace(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
