"""Work on many frames in several processes, in order and in bounded memory."""

import multiprocessing
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from itertools import groupby, islice
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Generic, TypeVar

from simipu_core.errors import SimipuError
from simipu_core.files import temporary_folder
from simipu_core.progress import progress
from simipu_core.workers import Bounds, LostError, Worker

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Rejection = Callable[[ItemT, str], ResultT]
"""Makes the result of an item that was too much, given the reason, which is to be put after its name."""

_FEWEST = 128
"""Below this many items starting processes takes longer than it saves."""
_MOST_WORKERS = 16
_LONGEST_FOLDER = 52
"""Bytes of a folder's name below which there is room for the name of a socket, of 107 bytes in all."""
_CHUNK = 4
_KILLED = "A worker process was killed, most likely because memory ran out; free memory or use a larger machine."


def map_frames(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    description: str,
    workers: int | None = None,
    *,
    group: Callable[[ItemT], Hashable] | None = None,
    rejected: Rejection[ItemT, ResultT] | None = None,
) -> Generator[ResultT, None, None]:
    """Apply a function to each item, showing progress; results come in the order of the items.

    At most a few chunks a worker are under way or waiting, however slowly the results are taken. Close the
    iterator (``contextlib.closing``) to stop the processes when leaving early.

    Args:
        function: picklable, with a picklable result.
        items: what to work on.
        description: shown with the progress.
        workers: processes; by default one a CPU, or none (in this process) for few items.
        group: what neighbouring items have in common that one process should work on, in order, such as the file that
            they lie in; a group is shared out only where there would be fewer groups than processes.
        rejected: for functions that read foreign bytes. They work in another process however few the items are, each
            item within `Bounds.of_frame`; of one that exceeds them this makes the result, and work goes on.

    Raises:
        SimipuError: a worker process was killed.
    """
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS) if len(items) >= _FEWEST else 0
    if rejected:
        workers = max(workers, 1)
    with progress(description, total=len(items)) as advance:
        chunks = _chunks(items, workers, group)
        results = _map_processes(function, chunks, workers, rejected) if workers else map(function, items)
        for result in results:
            yield result
            advance()


def apart(function: Callable[..., Iterable[ResultT]], *arguments: Any) -> Generator[ResultT, None, None]:
    """What a generator function yields in another process, each value within `Bounds.of_frame`.

    Args:
        function: picklable; yields picklable values.
        arguments: picklable.

    Raises:
        LostError: it exceeded them.
        SimipuError: the process was killed.
    """
    keep_sockets()
    worker = Worker(Bounds.of_frame())
    try:
        yield from worker.run(function, *arguments)
    except LostError as lost:
        if not lost.is_bound:
            raise SimipuError(_KILLED) from None
        raise
    finally:
        worker.kill()
        worker.join()


@cache
def keep_sockets() -> None:
    """Have multiprocessing keep its sockets where the next process finds and removes them if this one is killed.

    They go to /tmp where the name of ``TMPDIR`` is too long for them.

    Raises:
        SimipuError: that cannot be written either.
    """
    folder, own = ExitStack(), Path(tempfile.gettempdir())
    parent = own if len(os.fsencode(own)) <= _LONGEST_FOLDER else Path("/tmp")  # noqa: S108
    try:
        place = folder.enter_context(temporary_folder("mp", parent))
    except OSError as error:
        if parent == own:
            raise
        raise SimipuError(
            f"{own}: is too long a name for the sockets of worker processes, and /tmp cannot be written; set TMPDIR to "
            f"a folder of at most {_LONGEST_FOLDER} characters."
        ) from error
    multiprocessing.current_process()._config["tempdir"] = str(place)  # type: ignore[attr-defined]
    Finalize(None, folder.close, exitpriority=-100)


def in_threads(work: Sequence[Callable[[], ResultT]], threads: int) -> Generator[ResultT, None, None]:
    """Call functions that mostly wait, several at a time; results come in their order.

    The first error, and closing the iterator, drop what has not begun.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        for future in [pool.submit(each) for each in work]:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _chunks(
    items: Sequence[ItemT], workers: int, group: Callable[[ItemT], Hashable] | None
) -> Iterator[Sequence[ItemT]]:
    """Items that go to one process together."""
    longest = _CHUNK if group is None else max(_CHUNK, -(-len(items) // workers))
    for _, members in groupby(items, group or (lambda _: None)):
        together = list(members)
        size = -(-len(together) // -(-len(together) // longest)) if group else longest
        yield from (together[start : start + size] for start in range(0, len(together), size))


def _map_processes(
    function: Callable[[ItemT], ResultT],
    chunks: Iterator[Sequence[ItemT]],
    workers: int,
    rejected: Rejection[ItemT, ResultT] | None,
) -> Iterator[ResultT]:
    keep_sockets()
    with closing(_Crew(workers, function, rejected)) as crew:
        waiting = deque(map(crew.submit, islice(chunks, 2 * workers)))
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(map(crew.submit, islice(chunks, 1)))
            yield from results


class _Crew(Generic[ItemT, ResultT]):
    """Threads that lead a worker each, and replace it where it is lost."""

    def __init__(
        self, size: int, function: Callable[[ItemT], ResultT], rejected: Rejection[ItemT, ResultT] | None
    ) -> None:
        self._function, self._rejected = function, rejected
        self._bounds = Bounds.of_frame() if rejected else None
        self._threads = ThreadPoolExecutor(size)
        self._lock = threading.Lock()
        self._free: list[Worker] = []
        self._all: list[Worker] = []
        self._is_closed = False

    def submit(self, items: Sequence[ItemT]) -> "Future[list[ResultT]]":
        """Have the function applied to items, one after another, in one worker."""
        return self._threads.submit(self._work, items)

    def close(self) -> None:
        """End all workers, at once."""
        with self._lock:
            self._is_closed = True
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.join()

    def _work(self, items: Sequence[ItemT]) -> list[ResultT]:
        results: list[ResultT] = []
        while len(results) < len(items):
            worker = self._worker()
            try:
                results.extend(worker.run(map, self._function, items[len(results) :]))  # keeps those before a loss
                self._free.append(worker)
            except LostError as lost:
                worker.kill()
                if self._rejected is None or not lost.is_bound:
                    raise SimipuError(_KILLED) from None
                if worker.is_new or not lost.may_differ:  # else what is left of other items may have been too much
                    results.append(self._rejected(items[len(results)], lost.reason))
        return results

    def _worker(self) -> Worker:
        with self._lock:
            if self._is_closed:
                raise CancelledError
            if self._free:
                return self._free.pop()
            worker = Worker(self._bounds)
            self._all.append(worker)
            return worker
