"""Work on many frames in several processes, in order and in bounded memory."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby, islice
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import TypeVar

from simipu_core.errors import SimipuError
from simipu_core.progress import progress

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_FEWEST = 128
"""Below this many items starting processes takes longer than it saves."""
_MOST_WORKERS = 16
_CHUNK = 4


def map_frames(
    function: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    description: str,
    workers: int | None = None,
    *,
    group: Callable[[ItemT], Hashable] | None = None,
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

    Raises:
        SimipuError: a worker process was killed.
    """
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS) if len(items) >= _FEWEST else 0
    with progress(description, total=len(items)) as advance:
        results = _map_processes(function, _chunks(items, workers, group), workers) if workers else map(function, items)
        for result in results:
            yield result
            advance()


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
    function: Callable[[ItemT], ResultT], chunks: Iterator[Sequence[ItemT]], workers: int
) -> Iterator[ResultT]:
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(dict(os.environ),))
    try:
        waiting: deque[Future[list[ResultT]]] = deque(
            pool.submit(_apply, function, chunk) for chunk in islice(chunks, 2 * workers)
        )
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(pool.submit(_apply, function, chunk) for chunk in islice(chunks, 1))
            yield from results
    except BrokenProcessPool:
        raise SimipuError(
            "A worker process was killed, most likely because memory ran out; free memory or use a larger machine."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    return [function(item) for item in items]


def _begin_worker(environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the fork server's is as old as itself, credentials included
    import cv2

    cv2.setNumThreads(0)
    if parent := multiprocessing.parent_process():
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End this process when the one that gives it work is no more, as after SIGKILL; it would wait for ever."""
    parent.join()
    os._exit(1)
