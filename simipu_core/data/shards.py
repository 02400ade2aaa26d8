"""Self-contained Parquet shards: written once, read a row group at a time.

Row groups are the unit of shuffling and of splitting over ranks and workers. Blobs are stored uncompressed (they are
PNG, JPEG or noise-like floats already), so a row group is read at the speed of the disk.
"""

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, cast, overload

import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.artifacts import check_footer, read_manifest
from simipu_core.data.parquet import PARQUET_ERRORS
from simipu_core.data.row_groups import RemoteFile, RowGroups, damaged
from simipu_core.data.schema import DEPTH, PAIRS, DepthRow, ImageRow, PairRow
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path, seekable

ShardKind = Literal["pairs", "depth"]
RowT = TypeVar("RowT", bound=ImageRow)
_POINT_BYTES = 16
_SCHEMAS = {"pairs": PAIRS, "depth": DEPTH}
_COMMANDS = {b"catalogue": "simipu ingest", b"pairs": "simipu pair pretrain", b"depth": "simipu pair depth"}


def check_format(schema: pa.Schema, expected: pa.Schema, file: Path) -> None:
    """Check that a file was written in this format version and for this use.

    Raises:
        SimipuError: it was not.
    """
    if schema.metadata != expected.metadata or schema.names != expected.names:
        command = _COMMANDS[expected.metadata[b"simipu.kind"]]
        raise SimipuError(
            f"{file}: written in another format than this version reads; make it again with `{command}`, or run the "
            "pipeline again."
        )


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Say it in one sentence where a shard turns out to be damaged."""
    try:
        yield
    except PARQUET_ERRORS:
        raise damaged(file) from None


def _check_visible(file: Path, row: PairRow) -> None:
    """Check that the bitmap of a pair has a bit for each point, and no byte more."""
    num_points, rest = divmod(len(row["points"]), _POINT_BYTES)
    if rest or len(row["visible"]) != -(-num_points // 8):
        raise SimipuError(
            f"{file}: {row['sample_id']} has {len(row['visible'])} bytes of `visible` for {len(row['points'])} of "
            "`points`, which do not go together; make the shards again with `simipu pair pretrain`."
        )


class ShardWriter:
    """Writes rows to ``<prefix>-00000.parquet``, ``<prefix>-00001.parquet`` …; equal rows give equal bytes.

    Args:
        folder: existing folder to write into.
        prefix: beginning of the file names.
        schema: one of `simipu_core.data.schema`.
        rows_per_group: rows of one row group.
        shard_mb: a new file is begun once this much was written, megabytes.
        compress: compress pages with LZ4, which is worth it where images are stored as raw pixels.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        schema: pa.Schema,
        *,
        rows_per_group: int,
        shard_mb: int,
        compress: bool = False,
    ) -> None:
        self._compression = "lz4" if compress else "none"
        self._folder, self._prefix, self._schema = folder, prefix, schema
        self._rows_per_group, self._shard_bytes = rows_per_group, shard_mb * 1_000_000
        self._rows: list[PairRow | DepthRow] = []
        self._writer: pq.ParquetWriter | None = None
        self._files = 0
        self._bytes = 0

    def write(self, row: PairRow | DepthRow) -> None:
        """Add a row; whole row groups go to disk at once, and none holds rows of two sources."""
        if self._rows and row["source"] != self._rows[0]["source"]:
            self._flush()
        self._rows.append(row)
        if len(self._rows) == self._rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        self._rows = []
        if self._writer is None:
            self._writer = self._open()
        self._writer.write_table(table)
        self._bytes += table.nbytes
        if self._bytes >= self._shard_bytes:
            self._close_file()

    def _open(self) -> pq.ParquetWriter:
        path = self._folder / f"{self._prefix}-{self._files:05d}.parquet"
        self._files += 1
        self._bytes = 0
        return pq.ParquetWriter(
            path,
            self._schema,
            compression=self._compression,
            use_dictionary=[field.name for field in self._schema if pa.types.is_dictionary(field.type)],
            write_statistics=["sample_id", "source"],
            write_page_checksum=True,
        )

    def _close_file(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            self._close_file()
        else:
            with suppress(OSError):
                self._close_file()


class Shards(Generic[RowT]):
    """Random access to the rows of a `pairs` or `depth` artifact; picklable, opens its files on first use.

    Rows of one row group have consecutive indices; reading them together touches the disk once. A file's footer is
    checked against the manifest when it is opened, pages by their checksums when a process reads them first.

    Args:
        path: artifact directory; from one in S3, row groups are fetched when they are needed (`RowGroups`).
        kind: what it must hold.
        split: `train` or `eval` of a `depth` artifact; None for `pairs`.
        cached_groups: row groups kept in memory, 20-80 MB each at full size; as many as are shuffled together.

    Raises:
        SimipuError: not such an artifact, no shards of the split, or another format version.
    """

    @overload
    def __init__(
        self: "Shards[PairRow]", path: Path, kind: Literal["pairs"], split: None = None, cached_groups: int = 8
    ) -> None: ...

    @overload
    def __init__(
        self: "Shards[DepthRow]",
        path: Path,
        kind: Literal["depth"],
        split: Literal["train", "eval"],
        cached_groups: int = 8,
    ) -> None: ...

    def __init__(
        self, path: Path, kind: ShardKind, split: Literal["train", "eval"] | None = None, cached_groups: int = 8
    ) -> None:
        self.manifest = read_manifest(path, kind)
        prefix = split or kind
        names = sorted(name for name in self.manifest.files if re.fullmatch(rf"{prefix}-\d+\.parquet", name))
        self._files = [path / name for name in names]
        if not self._files:
            raise SimipuError(f"{path}: holds no {prefix} shards; check pair and the source's split, and pair again.")
        self.group_sizes: list[int] = []
        """Rows of each row group, in the order of the indices."""
        self.group_sources: list[str] = []
        """Source of the rows of each row group."""
        self._groups: list[tuple[int, int]] = []
        self._remote: list[RemoteFile] = []
        for number, file in enumerate(self._files):
            with _whole(file):
                check_footer(file, self.manifest.files[file.name])
                metadata = pq.read_metadata(seekable(file))
                check_format(metadata.schema.to_arrow_schema(), _SCHEMAS[kind], file)
                source = metadata.schema.names.index("source")
                for group in range(metadata.num_row_groups):
                    self.group_sizes.append(metadata.row_group(group).num_rows)
                    self.group_sources.append(metadata.row_group(group).column(source).statistics.min)
                    self._groups.append((number, group))
                if isinstance(file, S3Path):
                    digest = self.manifest.files[file.name].sha256
                    self._remote.append(RemoteFile(file, digest, metadata))
        self._ends = list(accumulate(self.group_sizes))
        self._cached_groups = cached_groups
        self._open: dict[tuple[int, bool], pq.ParquetFile] = {}
        """By number and whether pages are checked."""
        self._checked: set[int] = set()
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._fetching: RowGroups | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def row(self, index: int) -> RowT:
        """One row.

        Raises:
            IndexError: not 0 ≤ index < len.
            SimipuError: the shard is damaged, or the parts of the row do not fit each other.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._ends, index)
        file, table = self._files[self._groups[group][0]], self._group(group)
        with _whole(file):
            row = table.slice(index - self._ends[group] + self.group_sizes[group], 1).to_pylist()[0]
        if "visible" in row:
            _check_visible(file, row)
        return cast(RowT, row)

    def expect(self, indices: Iterable[int]) -> None:
        """Begin to fetch, from S3, what rows that are read soon need; those that come first first."""
        if self._remote:
            groups = dict.fromkeys(bisect_right(self._ends, index) for index in indices)
            self._fetcher().expect([self._groups[group] for group in groups if group not in self._cache])

    def column(self, name: str) -> list[Any]:
        """All values of one column, in the order of the indices; the other columns are not read."""
        values: list[Any] = []
        for number, file in enumerate(self._files):
            with _whole(file):
                values += self._file(number).read([name], use_threads=False)[name].to_pylist()
        return values

    def _group(self, group: int) -> pa.Table:
        if group not in self._cache:
            number, within = self._groups[group]
            with _whole(self._files[number]):
                if self._remote:
                    table = self._fetcher().read(number, within)
                else:
                    file = self._file(number, is_checked=group not in self._checked)
                    table = file.read_row_group(within, use_threads=False)
                    self._checked.add(group)
                if table.num_rows != self.group_sizes[group]:
                    raise damaged(self._files[number])
                self._cache[group] = table
            if len(self._cache) > self._cached_groups:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]

    def _file(self, number: int, *, is_checked: bool = True) -> pq.ParquetFile:
        key = number, is_checked
        if key not in self._open:
            file = seekable(self._files[number])
            self._open[key] = pq.ParquetFile(file, memory_map=True, page_checksum_verification=is_checked)
        return self._open[key]

    def _fetcher(self) -> RowGroups:
        if self._fetching is None:
            self._fetching = RowGroups(self._remote)
        return self._fetching

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_cache": OrderedDict(), "_fetching": None}
