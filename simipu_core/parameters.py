"""Configuration sections as Kubeflow pipeline parameters, and back.

A Kubeflow struct parameter has no null and turns whole numbers into floats.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from simipu_core.config import validate

ModelT = TypeVar("ModelT", bound=BaseModel)
_NULL = "null"


def to_parameter(section: BaseModel) -> dict[str, Any]:
    """Plain values of a section; null becomes the text ``null``."""
    values: dict[str, Any] = _replace(section.model_dump(mode="json"), None, _NULL)
    return values


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that the pipeline handed over, with null again where :func:`to_parameter` wrote the text."""
    made: dict[str, Any] = _replace(dict(values), _NULL, None)
    return made


def from_parameter(model: type[ModelT], values: Mapping[str, Any], name: str) -> ModelT:
    """Read a section back.

    Args:
        model: section to read.
        values: what the pipeline handed over.
        name: name of the section, for the message.

    Raises:
        SimipuError: a key or value is refused.
    """
    return validate(model, plain(values), name)


def _replace(value: Any, old: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
