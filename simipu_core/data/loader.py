"""Sample order and batch loading: pure functions of the seed and the step, whatever the number of workers."""

import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from multiprocessing import parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from simipu_core.errors import SimipuError, machine_errors
from simipu_core.termination import REQUESTS
from simipu_core.workers import starting

RowT = TypeVar("RowT")
RowT_co = TypeVar("RowT_co", covariant=True)
BatchT = TypeVar("BatchT")

_WINDOW = 8  # row groups whose rows are shuffled together; a worker's Shards keeps as many in memory
_PULSE = 1.0  # seconds between a worker's looks at whether the trainer lives


class Rows(Protocol[RowT_co]):
    """Random access to rows that lie in groups (see :class:`simipu_core.data.shards.Shards`)."""

    group_sizes: list[int]

    def row(self, index: int) -> RowT_co:
        """One row."""

    def expect(self, indices: Iterable[int]) -> None:
        """Rows that are read soon, in their order."""


class SampleOrder:
    """The order in which training sees rows: groups are permuted, rows are shuffled within windows of groups.

    Args:
        group_sizes: rows of each row group, in file order.
        batch_size: rows of a batch, over all ranks and micro-batches; an incomplete last batch is dropped.
        seed: seed of the order.
        max_rows: use only this many rows, evenly spread.
        sources: source of each row group; needed with `weights`.
        weights: share of an epoch's rows by source, in any unit. An epoch has as many rows as there are; a source that
            fills less than its share is repeated, of one that fills more each epoch takes other groups. None takes
            every row once.

    Raises:
        SimipuError: there are fewer rows than one batch holds, or `weights` names other sources than there are.
    """

    def __init__(
        self,
        group_sizes: Sequence[int],
        batch_size: int,
        seed: int,
        max_rows: int | None = None,
        *,
        sources: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
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
        self.num_rows = len(kept)
        self._largest_group = max(group_sizes)
        self.batch_size = batch_size
        self.seed = seed
        by_source: dict[str, list[NDArray[np.int64]]] = {}
        for group, source in zip(groups, sources if weights else [""] * len(groups), strict=True):
            if len(group):
                by_source.setdefault(source, []).append(group)
        if weights and weights.keys() != by_source.keys():
            raise SimipuError(
                f"source_weights names {', '.join(sorted(weights))}, but the shards hold "
                f"{', '.join(sorted(by_source))}; name exactly these."
            )
        self._groups = [by_source[source] for source in sorted(by_source)]
        self._quotas = _quotas(self.num_rows, [weights[source] if weights else 1.0 for source in sorted(by_source)])

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return self.num_rows // self.batch_size

    def rows(self, step: int) -> list[int]:
        """Row indices of batch `step`, counted over the whole training."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self.batch_size
        return [int(row) for row in _epoch_order(self, epoch)[begin : begin + self.batch_size]]

    def rows_ahead(self, step: int) -> Iterator[int]:
        """Row indices from batch `step` on, as many as are shuffled together."""
        ahead = -(-_WINDOW * self._largest_group // self.batch_size)
        return (row for later in range(step, step + ahead) for row in self.rows(later))


def _quotas(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of the weights that add up to the total."""
    ends = np.rint(np.cumsum(weights) / sum(weights) * total).astype(int)
    return [int(quota) for quota in np.diff(ends, prepend=0)]


@lru_cache(maxsize=2)
def _epoch_order(order: SampleOrder, epoch: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([order.seed, epoch])
    drawn = [
        piece for groups, quota in zip(order._groups, order._quotas, strict=True) for piece in _draw(groups, quota, rng)
    ]
    shuffled = [drawn[i] for i in rng.permutation(len(drawn))]
    windows = [np.concatenate(shuffled[i : i + _WINDOW]) for i in range(0, len(shuffled), _WINDOW)]
    return np.concatenate([rng.permutation(window) for window in windows])


def _draw(groups: Sequence[NDArray[np.int64]], quota: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Groups of one source with `quota` rows in all: all of them, as often as they fit, then some at random."""
    passes, missing = divmod(quota, sum(map(len, groups)))
    drawn = list(groups) * passes
    if missing:
        for index in rng.permutation(len(groups)):
            drawn.append(rng.permutation(groups[index])[:missing])
            missing -= len(drawn[-1])
            if not missing:
                break
    return drawn


class _MicroBatches(Dataset[Any], Generic[RowT, BatchT]):
    """Micro-batches of all steps, numbered through: step · micro-batches a step + micro-batch."""

    def __init__(
        self,
        rows: Rows[RowT],
        order: SampleOrder,
        make: Callable[[Sequence[RowT], Sequence[np.random.Generator]], BatchT],
        rank: int,
        world_size: int,
        accumulate: int,
    ) -> None:
        self.rows, self.order, self.make = rows, order, make
        self.accumulate = accumulate
        self.size = order.batch_size // (world_size * accumulate)
        self.first = rank * accumulate * self.size

    def __getitem__(self, number: int) -> BatchT | SimipuError:
        step, micro_batch = divmod(number, self.accumulate)
        begin = self.first + micro_batch * self.size
        indices = self.order.rows(step)[begin : begin + self.size]
        first = step * self.order.batch_size + begin
        rngs = [np.random.default_rng([self.order.seed, first + place, 1]) for place in range(len(indices))]
        self.rows.expect(self.order.rows_ahead(step))
        try:
            with machine_errors():
                batch = self.make([self.rows.row(index) for index in indices], rngs)
                if get_worker_info():
                    _share(batch)
        except SimipuError as error:  # handed over, since the loader would wrap it in a traceback
            return error
        return batch


def _share(value: Any) -> None:
    """Move the tensors of a batch to shared memory.

    Sending them would do it, too, but in a thread whose error nobody hears: the trainer would wait for ever.
    """
    if isinstance(value, torch.Tensor):
        value.share_memory_()  # type: ignore[no-untyped-call]
    elif is_dataclass(value):
        for field in fields(value):
            _share(getattr(value, field.name))
    elif isinstance(value, (list, tuple)):
        for each in value:
            _share(each)


def batches(
    rows: Rows[RowT],
    order: SampleOrder,
    make: Callable[[Sequence[RowT], Sequence[np.random.Generator]], BatchT],
    *,
    steps: range,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
) -> Generator[BatchT, None, None]:
    """Load the batches of `steps`, in order; a step's batch is cut into equal, contiguous micro-batches.

    Micro-batch m of rank r holds the rows from (r · accumulate + m) · size, where size is batch_size / (world_size ·
    accumulate), so that all micro-batches of all ranks are together what one rank with a single one sees.

    Args:
        rows: where rows come from.
        order: which rows a step holds, over all ranks.
        make: turns rows and their random generators into a batch; must be picklable with `workers` > 0.
        steps: steps to load; starting in the middle gives what an undisturbed run would have seen.
        workers: loader processes, one thread each; 0 loads in this process.
        rank: which of the processes that train together this is.
        world_size: number of these processes.
        accumulate: micro-batches a step on each rank, loaded one after the other.

    Raises:
        SimipuError: the batch cannot be cut into so many micro-batches, a row cannot be used, or no process can be
            started.

    Close the iterator (``contextlib.closing``) to end the processes when leaving early.
    """
    if order.batch_size % (world_size * accumulate):
        raise SimipuError(
            f"batch_size {order.batch_size} cannot be cut into {world_size} ranks times accumulate={accumulate} equal "
            "micro-batches; set it to a multiple."
        )
    loader: DataLoader[Any] = DataLoader(
        _MicroBatches(rows, order, make, rank, world_size, accumulate),
        batch_size=None,
        sampler=range(steps.start * accumulate, steps.stop * accumulate),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=partial(_begin_worker, dict(os.environ)) if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with _requests_held(), starting():
        loaded = iter(loader)
    try:
        for batch in loaded:
            if isinstance(batch, SimipuError):
                raise batch
            yield batch
    finally:
        del loaded  # ends its processes, which signals do not, also where an error keeps this frame


@contextmanager
def _requests_held() -> Iterator[None]:
    """Processes started here do not die of a request to end, which may go to a whole group: the trainer saves first.

    A signal that comes meanwhile is delivered to this process afterwards.
    """
    resource_tracker.ensure_running()  # which would undo the mask if it started meanwhile
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(environment: dict[str, str], _worker: int) -> None:
    """Keep a loader process to one thread, and let it end with the trainer."""
    os.environ.update(environment)  # the fork server's is as old as itself, credentials included
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if trainer := parent_process():
        Thread(target=_end_with, args=(trainer,), daemon=True).start()


def _end_with(trainer: BaseProcess) -> None:
    """End this process when the trainer sends SIGTERM or is no more, as after SIGKILL.

    PyTorch itself would watch the fork server only, which lives as long as its workers do.
    """
    while trainer.is_alive():
        heard = signal.sigtimedwait([signal.SIGTERM], _PULSE)
        if heard and heard.si_pid == trainer.pid:
            break
    os._exit(0)
