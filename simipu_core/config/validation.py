"""Validation of plain values, with errors in one sentence."""

from typing import Any, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from simipu_core.config.section import DEFAULT_KINDS
from simipu_core.errors import SimipuError

_LONGEST = 200
"""Characters of a refused key or value that are shown."""
T = TypeVar("T")


@overload
def validate(annotation: type[T], values: Any, where: str) -> T: ...
@overload
def validate(annotation: object, values: Any, where: str) -> Any: ...
def validate(annotation: Any, values: Any, where: str) -> Any:
    """Validate plain values into a section, or into whatever a field may be annotated with.

    Raises:
        SimipuError: naming `where`, the key, the value and what was expected, in one sentence.
    """
    try:
        return TypeAdapter(annotation).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(describe(problem, values) for problem in error.errors()[:3])
        raise SimipuError(f"{where}: {problems}.") from None


def key_of(problem: Any, values: Any) -> str:
    """Dotted key that pydantic found a problem with, without the kinds of sections that pydantic puts in between.

    Args:
        problem: one of ``ValidationError.errors()``.
        values: what was validated.
    """
    keys = _keys(problem["loc"], values)
    if problem["type"] == "union_tag_invalid":
        keys.append(problem["ctx"]["discriminator"].strip("'"))
    return ".".join(keys)[:_LONGEST] or "experiment"


def describe(problem: Any, values: Any, name: str | None = None) -> str:
    """A problem that pydantic found, in some words.

    Args:
        problem: one of ``ValidationError.errors()``.
        values: what was validated.
        name: what the user calls the key; None: its dotted key.
    """
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not (name or problem["loc"]) and problem["type"] == "value_error":  # of several keys, which the message names
        return message
    name = name or key_of(problem, values)
    if problem["type"] == "union_tag_invalid":
        there = problem["ctx"]["expected_tags"].replace("'", "")
        return f"`{name}`: there is no {_short(problem['ctx']['tag'])}; there are {there}"
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{name}` (remove it or check its spelling; `simipu config --explain` lists all keys)"
    if problem["type"] in ("value_error", "missing"):
        return f"`{name}`: {message}"
    return f"`{name}`: {message} (got {_short(problem['input'])})"


def _keys(location: tuple[int | str, ...], values: Any) -> list[str]:
    """The keys that lead to a refused value, without the kinds of sections that pydantic puts in between."""
    keys = []
    for part in location:
        if isinstance(values, dict):
            if part not in values and (part == values.get("kind") or part in DEFAULT_KINDS):
                continue
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        keys.append(str(part))
    return keys


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
