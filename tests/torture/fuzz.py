"""Damaged bytes for every parser, in a worker with the bounds that foreign frames have."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from threading import Event, Timer
from traceback import format_exc
from typing import TYPE_CHECKING, Any, TypeVar

from simipu_core.workers import Bounds, LostError, Worker
from tests.torture.campaign import Campaign
from tests.torture.record import Fault, Trial

if TYPE_CHECKING:
    from tests.data.parsers import Case

ResultT = TypeVar("ResultT")
_INPUTS = 200
"""A trial."""
_PATIENCE = 300.0
"""Seconds that an input may take, waiting included; its processor time is bounded besides."""


class Parser:
    """One parser.

    Args:
        name: in `PARSERS`.
        folder: empty.
        inputs: of a trial.
    """

    def __init__(self, name: str, folder: Path, inputs: int = _INPUTS) -> None:
        self.name = name
        self._folder = folder
        self._inputs = inputs
        self._worker: Worker | None = None
        self._lives = 0

    def attack(self, rng: Random) -> Trial:
        """Give it damaged inputs."""
        seed = rng.getrandbits(64)
        seen = {"taken": 0, "refused": 0, "ended by its bounds": 0}
        broken: list[tuple[Fault, str]] = []
        done = 0
        while done < self._inputs:
            worker, is_fresh = self._started()
            try:
                for was_taken, problem in _timely(worker, _inputs, self.name, self._place(), seed, done, self._inputs):
                    if problem:
                        broken.append((Fault.TRACEBACK, f"input {done} of seed {seed}: {problem}"))
                    seen["taken" if was_taken else "refused"] += 1
                    done += 1
                    is_fresh = False
            except TimeoutError:
                self.close()
                broken.append((Fault.HUNG, f"input {done} of seed {seed}"))
                done += 1
            except LostError as lost:
                self.close()
                if not lost.is_bound:
                    raise
                if is_fresh or not lost.may_differ:  # else what is left of other inputs may have been too much
                    seen["ended by its bounds"] += 1
                    done += 1
        return Trial(self._inputs, seen, tuple(broken))

    def close(self) -> None:
        """End its worker."""
        if self._worker:
            self._worker.kill()
            self._worker.join()
        self._worker = None
        self._lives += 1
        shutil.rmtree(self._folder, ignore_errors=True)

    def _started(self) -> tuple[Worker, bool]:
        """The worker, and whether it has read nothing yet."""
        if self._worker:
            return self._worker, False
        self._worker = Worker(Bounds.of_frame())
        for _ in _timely(self._worker, _prepared, self.name, self._place()):
            pass
        return self._worker, True

    def _place(self) -> Path:
        return self._folder / str(self._lives)


def _timely(worker: Worker, function: Callable[..., Iterable[ResultT]], *arguments: Any) -> Iterator[ResultT]:
    """What a worker yields.

    Raises:
        TimeoutError: a value took too long; the worker is no more.
        LostError: the worker is lost.
    """
    is_late = Event()

    def give_up() -> None:
        is_late.set()
        worker.kill()

    values = worker.run(function, *arguments)
    while True:
        watch = Timer(_PATIENCE, give_up)
        watch.start()
        try:
            yield next(values)
        except StopIteration:
            return
        except LostError:
            if is_late.is_set():
                raise TimeoutError from None
            raise
        finally:
            watch.cancel()


@cache
def _cases(name: str, folder: Path) -> "list[Case]":
    from tests.data.parsers import PARSERS

    folder.mkdir(parents=True)
    return PARSERS[name](folder)


def _prepared(name: str, folder: Path) -> Iterator[int]:
    yield len(_cases(name, folder))


def _inputs(name: str, folder: Path, seed: int, first: int, last: int) -> Iterator[tuple[bool, str]]:
    """What becomes of inputs, in a worker: whether each was taken, and what is wrong with that."""
    from tests.data.parsers import attempt

    cases = _cases(name, folder)
    for number in range(first, last):
        rng = Random(f"{seed}/{number}")
        try:
            yield attempt(rng.choice(cases), rng), ""
        except MemoryError:
            raise
        except Exception:
            yield False, format_exc()[-1500:]


@contextmanager
def _targets(work: Path) -> Iterator[Sequence[Parser]]:
    from tests.data.parsers import PARSERS

    parsers = [Parser(name, work / name.replace(" ", "_")) for name in PARSERS]
    try:
        yield parsers
    finally:
        for parser in parsers:
            parser.close()


CAMPAIGN = Campaign("fuzz", 100_000, _targets)
