"""Packing frames in the order in which their files are read fastest, whatever the order of the rows.

A record of a Parquet component is found by decoding all that stands before it in its row group. So where frames are
such records, each component is read once, from its beginning to its end, by one process; packed rows wait in temporary
files, as large as the shards to be, until their turn comes.
"""

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from simipu_core.data.frames import Rejected
from simipu_core.data.pairing import Packed
from simipu_core.data.schema import CatalogueRow
from simipu_core.data.sources import source_named
from simipu_core.parallel import map_frames

_DEPTH_VALUES = 1 << 16
_HISTOGRAM = "histogram"


@dataclass(frozen=True)
class _Waiting:
    """Where a packed row waits, and what is known of it besides."""

    split: str
    num_points: int
    share_in_image: float
    share_occluded: float
    num_codes: int
    file: Path
    offset: int
    length: int


def pack_frames(
    pack: Callable[[CatalogueRow], Packed | Rejected],
    frames: list[CatalogueRow],
    schema: pa.Schema,
    folder: Path,
    description: str,
    rejected: Callable[[CatalogueRow, str], Rejected],
) -> Generator[Packed | Rejected, None, None]:
    """Pack frames in several processes; results come in the order of the frames.

    Args:
        pack: packs one frame; picklable.
        frames: catalogue rows.
        schema: of the packed rows.
        folder: for rows that wait; made where it is needed, and gone in the end.
        description: shown with the progress.
        rejected: what becomes of a frame that is too much to read, given the reason.

    Raises:
        SimipuError: a worker process was killed.
    """
    if not any(map(_container, frames)):
        yield from map_frames(pack, frames, description, rejected=rejected)
        return
    schema = _plain(schema)
    order = sorted(range(len(frames)), key=lambda index: str(frames[index]["sample_id"]))
    folder.mkdir()
    try:
        store_packed = partial(_store_packed, pack, schema, folder)
        together = [frames[index] for index in order]
        work = map_frames(store_packed, together, description, group=_container, rejected=rejected)
        with closing(work) as packed:
            results = dict(zip(order, packed, strict=True))
        for waiting in (results[index] for index in range(len(frames))):
            yield _take(waiting, schema) if isinstance(waiting, _Waiting) else waiting
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _container(frame: CatalogueRow) -> Path | None:
    return source_named(frame["source"]).container(Path(frame["image"]))


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema for one row at a time: texts instead of dictionaries, and the histogram of depth rows."""
    plain = {pa.dictionary(pa.int32(), pa.string()): pa.string()}
    fields = [pa.field(field.name, plain.get(field.type, field.type)) for field in schema]
    return pa.schema([*fields, pa.field(_HISTOGRAM, pa.list_(pa.int64()))])


def _store_packed(
    pack: Callable[[CatalogueRow], Packed | Rejected], schema: pa.Schema, folder: Path, frame: CatalogueRow
) -> _Waiting | Rejected:
    """Pack a frame and append its row to this process's file."""
    packed = pack(frame)
    if isinstance(packed, Rejected):
        return packed
    counts = packed.histogram
    values = None if counts is None else np.flatnonzero(counts)
    pairs = None if counts is None or values is None else np.concatenate((values, counts[values]))
    data = pa.RecordBatch.from_pylist([{**packed.row, _HISTOGRAM: pairs}], schema).serialize()
    file = folder / str(os.getpid())
    with file.open("ab") as stream:
        offset = stream.tell()
        stream.write(data)
    return _Waiting(
        packed.split,
        packed.num_points,
        packed.share_in_image,
        packed.share_occluded,
        packed.num_codes,
        file,
        offset,
        data.size,
    )


def _take(waiting: _Waiting, schema: pa.Schema) -> Packed:
    with waiting.file.open("rb") as stream:
        stream.seek(waiting.offset)
        batch = pa.ipc.read_record_batch(pa.py_buffer(stream.read(waiting.length)), schema)
    (row,) = batch.to_pylist()
    pairs = row.pop(_HISTOGRAM)
    histogram = None
    if pairs is not None:
        values, counts = np.array(pairs, np.int64).reshape(2, -1)
        histogram = np.bincount(values, counts, _DEPTH_VALUES).astype(np.int64)
    return Packed(
        row,
        waiting.split,
        waiting.num_points,
        waiting.share_in_image,
        waiting.share_occluded,
        waiting.num_codes,
        histogram=histogram,
    )
