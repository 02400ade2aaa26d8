"""Sample order and batch loading: pure functions of (seed, epoch, row), whatever the number of workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from simipu_core.errors import SimipuError

Row = Mapping[str, Any]
BatchT = TypeVar("BatchT")

_WINDOW = 8  # row groups whose rows are shuffled together; a worker's Shards keeps as many in memory


class Rows(Protocol):
    """Random access to rows that lie in groups (see :class:`simipu_core.data.shards.Shards`)."""

    group_sizes: list[int]

    def row(self, index: int) -> Row:
        """One row."""


class SampleOrder:
    """The order in which training sees rows: groups are permuted, rows are shuffled within windows of groups.

    Args:
        group_sizes: rows of each row group, in file order.
        batch_size: rows of a batch; an incomplete last batch is dropped.
        seed: seed of the order.
        max_rows: use only this many rows, evenly spread.

    Raises:
        SimipuError: there are fewer rows than one batch holds.
    """

    def __init__(self, group_sizes: Sequence[int], batch_size: int, seed: int, max_rows: int | None = None) -> None:
        num_rows = sum(group_sizes)
        kept = np.arange(num_rows)
        if max_rows is not None and max_rows < num_rows:
            kept = np.arange(max_rows) * num_rows // max_rows
        if len(kept) < batch_size:
            raise SimipuError(
                f"{len(kept)} training samples do not fill one batch of {batch_size}; lower batch_size or add data."
            )
        ends = np.cumsum(group_sizes)
        groups = np.split(kept, np.searchsorted(kept, ends[:-1]))
        self._groups = [group for group in groups if len(group)]
        self.num_rows = len(kept)
        self.batch_size = batch_size
        self.seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return self.num_rows // self.batch_size

    def rows(self, step: int) -> tuple[int, list[int]]:
        """Epoch and row indices of batch `step`, counted over the whole training."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self.batch_size
        return epoch, _epoch_order(self, epoch)[begin : begin + self.batch_size].tolist()


@lru_cache(maxsize=2)
def _epoch_order(order: SampleOrder, epoch: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([order.seed, epoch])
    shuffled = [order._groups[i] for i in rng.permutation(len(order._groups))]
    windows = [np.concatenate(shuffled[i : i + _WINDOW]) for i in range(0, len(shuffled), _WINDOW)]
    return np.concatenate([rng.permutation(window) for window in windows])


class _Batches(Dataset[Any], Generic[BatchT]):
    def __init__(
        self,
        rows: Rows,
        order: SampleOrder,
        make: Callable[[Sequence[Row], Sequence[np.random.Generator]], BatchT],
    ) -> None:
        self.rows, self.order, self.make = rows, order, make

    def __getitem__(self, step: int) -> BatchT | SimipuError:
        epoch, indices = self.order.rows(step)
        rngs = [np.random.default_rng([self.order.seed, epoch, index]) for index in indices]
        try:
            return self.make([self.rows.row(index) for index in indices], rngs)
        except SimipuError as error:  # handed over, since the loader would wrap it in a traceback
            return error


def batches(
    rows: Rows,
    order: SampleOrder,
    make: Callable[[Sequence[Row], Sequence[np.random.Generator]], BatchT],
    *,
    steps: range,
    workers: int,
) -> Iterator[BatchT]:
    """Load the batches of `steps`, in order.

    Args:
        rows: where rows come from.
        order: which rows a step holds.
        make: turns rows and their random generators into a batch; must be picklable with `workers` > 0.
        steps: steps to load; starting in the middle gives what an undisturbed run would have seen.
        workers: loader processes, one thread each; 0 loads in this process.

    Raises:
        SimipuError: a row cannot be used.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(rows, order, make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=single_thread if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, SimipuError):
            raise batch
        yield batch


def single_thread(_worker: int = 0) -> None:
    """Keep a loader process to one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
