"""Validation of plain values, with errors in one sentence."""

from typing import Any, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

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
        problems = "; ".join(_describe(problem, values) for problem in error.errors()[:3])
        raise SimipuError(f"{where}: {problems}.") from None


def _describe(problem: Any, values: Any) -> str:
    keys = _keys(problem["loc"], values)
    if problem["type"] == "union_tag_invalid":
        named = problem["ctx"]
        key = ".".join([*keys, named["discriminator"].strip("'")])[:_LONGEST]
        there = named["expected_tags"].replace("'", "")
        return f"`{key}`: there is no {_short(named['tag'])}; there are {there}"
    key = ".".join(keys)[:_LONGEST] or "experiment"
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}` (remove it or check its spelling; `simipu config --explain` lists all keys)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}`: {message} (got {_short(problem['input'])})"


def _keys(location: tuple[int | str, ...], values: Any) -> list[str]:
    """The keys that lead to a refused value, without the kinds of sections that pydantic puts in between."""
    keys = []
    for part in location:
        if isinstance(values, dict):
            if part not in values and part == values.get("kind"):
                continue
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
        keys.append(str(part))
    return keys


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
