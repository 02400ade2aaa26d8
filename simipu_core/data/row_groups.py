"""Row groups of shards in S3: fetched ahead of their use, each once a machine, into the bounded cache."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from simipu_core.data.parquet import PARQUET_ERRORS
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path
from simipu_core.storage.cache import borrowed

_THREADS = 2
_TABLE = "rows.arrow"


def damaged(file: Path) -> SimipuError:
    """The error of a shard that cannot be read."""
    return SimipuError(f"{file}: cannot be read as Parquet (damaged or truncated); run pair again.")


@dataclass(frozen=True)
class RemoteFile:
    """A Parquet file in S3 whose footer was read."""

    path: S3Path
    sha256: str
    """Of its content, by which its row groups are named in the cache."""
    metadata: pq.FileMetaData


class RowGroups:
    """Reads row groups of remote files; what all processes of a machine fetched lies in the cache.

    What is read stays readable while it is in use, also where the cache has made room for others meanwhile. Pages are
    checked by their checksums.
    """

    def __init__(self, files: Sequence[RemoteFile]) -> None:
        self._files = files
        self._pool = ThreadPoolExecutor(_THREADS)
        self._expected: dict[tuple[int, int], Future[None]] = {}

    def expect(self, groups: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch groups (number of the file, number within it), in this order; others are no longer wanted."""
        for group in self._expected.keys() - set(groups):
            self._expected.pop(group).cancel()
        for group in groups:
            if group not in self._expected:
                self._expected[group] = self._pool.submit(self._fetch, *group)

    def read(self, number: int, group: int) -> pa.Table:
        """A row group, memory-mapped.

        Raises:
            SimipuError: S3 fails, or its pages are damaged.
        """
        if expected := self._expected.pop((number, group), None):
            expected.cancel()  # where it has not begun; where it has, its lock is waited for
        with self._entry(number, group) as folder, pa.memory_map(str(folder / _TABLE)) as source:
            return pa.ipc.open_file(source).read_all()

    def _fetch(self, number: int, group: int) -> None:
        with self._entry(number, group):
            pass

    def _entry(self, number: int, group: int) -> AbstractContextManager[Path]:
        file = self._files[number]

        def fill(folder: Path) -> None:
            try:
                reader = pq.ParquetFile(
                    file.path.open("rb"), metadata=file.metadata, pre_buffer=True, page_checksum_verification=True
                )
                table = reader.read_row_group(group, use_threads=False)
            except PARQUET_ERRORS as error:  # which would pass for one of the cache's disk
                raise damaged(file.path) from error
            with pa.OSFile(str(folder / _TABLE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)

        size = file.metadata.row_group(group).total_byte_size
        return borrowed(f"rows-{file.sha256[:32]}-{group}", fill, size)
