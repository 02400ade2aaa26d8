"""Validation of plain values, with errors in one sentence."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from simipu_core.errors import SimipuError

_LONGEST = 200
"""Characters of a refused key or value that are shown."""
ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], values: Any, where: str) -> ModelT:
    """Validate plain values into a section, with errors in one sentence.

    Raises:
        SimipuError: naming `where`, the key, the value and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(describe(problem, key_of(problem)) for problem in error.errors()[:3])
        raise SimipuError(f"{where}: {problems}.") from None


def key_of(problem: Any) -> str:
    """Dotted key that pydantic found a problem with."""
    return ".".join(str(part) for part in problem["loc"])[:_LONGEST] or "experiment"


def describe(problem: Any, name: str) -> str:
    """A problem that pydantic found, in some words.

    Args:
        problem: one of ``ValidationError.errors()``.
        name: what the user calls the key.
    """
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{name}` (remove it or check its spelling; `simipu config --explain` lists all keys)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{name}`: {message}"
    return f"`{name}`: {message} (got {_short(problem['input'])})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
