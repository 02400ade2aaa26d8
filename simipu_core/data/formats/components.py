"""Parquet components: files whose rows are found by their key columns."""

import os
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.data.frames import BrokenFrameError
from simipu_core.data.parquet import PARQUET_ERRORS
from simipu_core.storage import seekable

Key = tuple[Any, ...]
Row = dict[str, Any]
"""Arrow scalars by column."""


def read_table(file: Path, *columns: str) -> pa.Table:
    """Some columns of a small component.

    Raises:
        BrokenFrameError: the file is missing or damaged, or lacks a column.
    """
    try:
        parquet = pq.ParquetFile(seekable(file))
        _check_columns(file, parquet, columns)
        return parquet.read(columns=list(columns), use_threads=False)
    except PARQUET_ERRORS as error:
        raise BrokenFrameError(file, _reason(error)) from None


def open_component(file: Path, keys: tuple[str, ...], columns: tuple[str, ...]) -> "Component":
    """A component, kept open from call to call in each process while the file stays the same.

    Raises:
        BrokenFrameError: the file is missing or damaged, or lacks a column.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise BrokenFrameError(file, _reason(error)) from None
    return _open(file, keys, columns, (status.st_size, status.st_mtime_ns))


class Component:
    """Rows of a large component by key, one row in memory at a time.

    Reading in the order of the file goes on where the last row ended; going back begins at the row group again.
    """

    def __init__(self, file: Path, keys: tuple[str, ...], columns: tuple[str, ...]) -> None:
        self._file = file
        self._columns = list(columns)
        table = read_table(file, *keys)
        try:
            self._rows = {key: row for row, key in enumerate(zip(*(table[k].to_pylist() for k in keys), strict=True))}
            self._parquet = pq.ParquetFile(seekable(file), buffer_size=1 << 20, pre_buffer=False)
        except PARQUET_ERRORS as error:
            raise BrokenFrameError(file, _reason(error)) from None
        _check_columns(file, self._parquet, columns)
        metadata = self._parquet.metadata
        self._ends: list[int] = []
        for group in range(metadata.num_row_groups):
            self._ends.append((self._ends[-1] if self._ends else 0) + metadata.row_group(group).num_rows)
        self._stream: Iterator[Row] = iter(())
        self._group, self._next = -1, 0

    @property
    def keys(self) -> Collection[Key]:
        """Keys of all rows, in file order."""
        return self._rows.keys()

    def row(self, key: Key) -> Row:
        """One row.

        Raises:
            BrokenFrameError: there is no such row, or it cannot be read.
        """
        if key not in self._rows:
            raise BrokenFrameError(self._file, f"has no row {'.'.join(map(str, key))}")
        row = self._rows[key]
        group = next(index for index, end in enumerate(self._ends) if row < end)
        try:
            if group != self._group or row < self._next:
                self._group, self._next = group, self._ends[group - 1] if group else 0
                self._stream = self._stream_group(group)
            while self._next < row:
                next(self._stream)
                self._next += 1
            self._next += 1
            return next(self._stream)
        except (*PARQUET_ERRORS, StopIteration) as error:
            self._group = -1
            raise BrokenFrameError(self._file, _reason(error)) from None

    def _stream_group(self, group: int) -> Iterator[Row]:
        for batch in self._parquet.iter_batches(1, row_groups=[group], columns=self._columns, use_threads=False):
            yield {name: batch.column(name)[0] for name in self._columns}


@lru_cache(maxsize=16)
def _open(file: Path, keys: tuple[str, ...], columns: tuple[str, ...], _version: tuple[int, int]) -> Component:
    return Component(file, keys, columns)


def _check_columns(file: Path, parquet: pq.ParquetFile, columns: tuple[str, ...]) -> None:
    present = set(parquet.schema_arrow.names)
    if missing := [column for column in columns if column not in present]:
        raise BrokenFrameError(file, f"the column {missing[0]} is missing")


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({os.strerror(error.errno)})"
    return "cannot be read as Parquet (damaged or truncated)"
