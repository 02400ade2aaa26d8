"""Predict on many frames: reading and writing in threads while the network works."""

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors
from simipu_core.prediction.inputs import Broken, Frame, Source
from simipu_core.prediction.intrinsics import Intrinsics
from simipu_core.prediction.outputs import Outputs, Prediction, Save
from simipu_core.prediction.predictor import Predictor, Prepared
from simipu_core.progress import progress

_MOST_THREADS = 8
_NOTHING = "nothing that is asked for can be made of it: a ply needs intrinsics (--intrinsics), a video frames of one"
_END = object()
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass
class Outcome:
    """What became of the frames."""

    predicted: int = 0
    kept: int = 0
    """Whose outputs were all there."""
    unknown: int = 0
    """Predicted without intrinsics."""
    broken: list[Broken] = field(default_factory=list)
    seconds: float = 0.0
    """From the first frame to the last."""


@dataclass(frozen=True)
class _Ready:
    """A frame that the network can be shown."""

    frame: Frame
    kinds: frozenset[Save]
    intrinsics: Intrinsics | None
    prepared: Prepared

    @property
    def key(self) -> object:
        """Equal where frames fit into one batch."""
        view = self.prepared.view
        return view.image.shape, view.answered.size


@dataclass(frozen=True)
class _Kept:
    """A frame whose outputs are all there."""


def predict_all(
    predictor: Predictor,
    sources: Sequence[Source],
    out: Path,
    kinds: Collection[Save],
    *,
    intrinsics: Intrinsics | None = None,
    flip: bool = True,
    batch_size: int = 4,
    overwrite: bool = False,
    warn: Callable[[str], None] = print,
) -> Outcome:
    """Predict on all frames of sources and write what is asked for.

    Frames that cannot be read, or that the intrinsics do not fit, are skipped and told. In memory are as many frames
    as batches and threads need, whatever their number.

    Args:
        predictor: the network.
        sources: what to predict on.
        out: folder to write below.
        kinds: what to write.
        intrinsics: of all frames, instead of those that sources state.
        flip: average with the prediction of the mirrored image.
        batch_size: frames that are predicted on at once.
        overwrite: write also what is there.
        warn: tells, once, where depths may be wrong by a factor.

    Raises:
        SimipuError: the disk is full or not writable.
    """
    outcome = Outcome()
    warned: set[str] = set()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    begun = time.monotonic()
    with (
        disk_errors(out),
        Outputs(out, kinds, predictor.net.spec.max_depth, overwrite=overwrite) as outputs,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as scribe,
        ThreadPoolExecutor(threads) as pool,
        progress("predict", sum(source.count for source in sources)) as advance,
    ):
        prepare = partial(_prepare, predictor, outputs, intrinsics)
        frames = _once(chain.from_iterable(source.frames() for source in sources))
        batches = _batches(_ahead(frames, prepare, reader, pool, batch_size + 2 * threads), batch_size)
        written: deque[Future[None]] = deque()
        for told, ready in batches:
            outcome.broken += [each for each in told if isinstance(each, Broken)]
            outcome.kept += sum(isinstance(each, _Kept) for each in told)
            if ready:
                depths = predictor.predict_prepared([each.prepared for each in ready], flip=flip)
                for each, depth in zip(ready, depths, strict=True):
                    made = Prediction(
                        each.frame.name,
                        each.frame.source,
                        depth,
                        each.prepared.image,
                        each.intrinsics,
                        each.frame.clip,
                    )
                    written.append(pool.submit(outputs.write_files, made, each.kinds))
                    written.append(scribe.submit(outputs.write_in_order, made, each.kinds))
                    note = predictor.note_on_scale(is_known=each.intrinsics is not None)
                    if note and note not in warned:
                        warned.add(note)
                        warn(note)
                outcome.predicted += len(ready)
                outcome.unknown += sum(each.intrinsics is None for each in ready)
            while len(written) > 2 * (batch_size + threads):
                written.popleft().result()
            rate = outcome.predicted / (time.monotonic() - begun)
            advance(len(told) + len(ready), f"{rate:.3g} frames/s")
        while written:
            written.popleft().result()
    outcome.seconds = time.monotonic() - begun
    return outcome


def _once(frames: Iterable[Frame | Broken]) -> Iterator[Frame | Broken]:
    """The frames, but a second one of the same name is broken: it would be written over the first."""
    seen: dict[str, str] = {}
    for frame in frames:
        if isinstance(frame, Frame):
            named = frame.clip or frame  # frames of a video are numbered
            source = seen.setdefault(named.name, named.source)
            if source != named.source:
                yield Broken(frame.source, f"would be written to the files of {source}; give them to runs of their own")
                continue
        yield frame


def _prepare(
    predictor: Predictor, outputs: Outputs, given: Intrinsics | None, frame: Frame | Broken
) -> _Ready | _Kept | Broken:
    if isinstance(frame, Broken):
        return frame
    intrinsics = given or frame.intrinsics
    has_intrinsics = intrinsics is not None
    if not outputs.possible(frame.clip, has_intrinsics=has_intrinsics):
        return Broken(frame.source, _NOTHING)
    kinds = outputs.missing(frame.name, frame.clip, has_intrinsics=has_intrinsics)
    if not kinds:
        return _Kept()
    try:
        return _Ready(frame, kinds, intrinsics, predictor.prepare(frame.read(), intrinsics))
    except SimipuError as error:
        return Broken(frame.source, str(error))


def _ahead(
    items: Iterator[ItemT],
    work: Callable[[ItemT], ResultT],
    reader: ThreadPoolExecutor,
    pool: ThreadPoolExecutor,
    count: int,
) -> Iterator[ResultT]:
    """Results of work on items, in order; `count` of them are read and worked on ahead.

    One thread reads the items one after the other, and those of the pool work on them.
    """

    def read() -> Future[ResultT] | None:
        item = next(items, _END)
        return None if item is _END else pool.submit(work, item)  # type: ignore[arg-type]

    pending = deque(reader.submit(read) for _ in range(count))
    while (result := pending.popleft().result()) is not None:
        pending.append(reader.submit(read))
        yield result.result()


def _batches(
    results: Iterable[_Ready | _Kept | Broken], size: int
) -> Iterator[tuple[list[_Kept | Broken], list[_Ready]]]:
    """Frames that fit into one batch, in order, with what else came among them."""
    told: list[_Kept | Broken] = []
    ready: list[_Ready] = []
    for result in results:
        if not isinstance(result, _Ready):
            told.append(result)
        elif ready and result.key != ready[0].key:
            yield told, ready
            told, ready = [], [result]
        else:
            ready.append(result)
        if len(ready) == size or len(told) == size:
            yield told, ready
            told, ready = [], []
    if told or ready:
        yield told, ready
