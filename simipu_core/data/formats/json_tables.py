"""JSON tables, arrays of records, read one record at a time: some have millions of rows and gigabytes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from simipu_core.data.formats.files import check_regular
from simipu_core.errors import SimipuError

Record = dict[str, Any]
ValueT = TypeVar("ValueT")

_PIECE = 1 << 22
"""Characters read at once; also the longest record."""
_DECODER = json.JSONDecoder()


def records(file: Path) -> Iterator[Record]:
    """The records of a table, in order, never all in memory.

    Args:
        file: a JSON array of objects.

    Raises:
        SimipuError: the table is missing, damaged or truncated, or holds something else.
    """
    try:
        check_regular(file)
        with file.open(encoding="utf-8-sig") as stream:
            yield from _array(stream)
    except FileNotFoundError:
        raise SimipuError(f"{file}: this table is missing; download the metadata archive and unpack it here.") from None
    except (OSError, ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        raise SimipuError(
            f"{file}: cannot be read as a JSON array of records; unpack the metadata archive again."
        ) from None


def value(file: Path, record: Record, field: str, kind: type[ValueT]) -> ValueT:
    """A field of a record.

    Args:
        file: the record's table, for the message.
        record: the record.
        field: name.
        kind: type that the field must have.

    Raises:
        SimipuError: the field is missing or of another type.
    """
    found = record.get(field)
    if not isinstance(found, kind):
        raise SimipuError(f"{file}: the record {record.get('token')} has no sound {field}; unpack the archive again.")
    return found


def _array(stream: TextIO) -> Iterator[Record]:
    text = stream.read(_PIECE)
    position, is_whole = _skip(text, 0), len(text) < _PIECE
    if text[position : position + 1] != "[":
        raise ValueError("no array")
    separator, position = "", position + 1
    while True:
        if not is_whole and len(text) - position < _PIECE:
            more = stream.read(_PIECE)
            text, position, is_whole = text[position:] + more, 0, not more
        position = _skip(text, position)
        if text[position : position + 1] == "]":
            return
        if not text.startswith(separator, position):
            raise ValueError("no separator")
        record, position = _DECODER.raw_decode(text, _skip(text, position + len(separator)))
        if not isinstance(record, dict):
            raise ValueError("no object")
        yield record
        separator = ","


def _skip(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position
