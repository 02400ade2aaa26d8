"""Progress of long work: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_LINE_SECONDS = 5.0


class Advance(Protocol):
    """Report `step` more units done, with a few words on how it goes."""

    def __call__(self, step: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(description: str, total: int, start: int = 0) -> Iterator[Advance]:
    """Show how far work on `total` units has come; yields a function that advances it.

    Args:
        description: what is being done, e.g. ``"pretrain"``.
        total: units in all.
        start: units already done when work is resumed.
    """
    shown = _bar if sys.stderr.isatty() else _lines
    with shown(description, total, start) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int, start: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True))
    with bar:
        task = bar.add_task(description, total=total, completed=start, note="")

        def advance(step: int = 1, note: str = "") -> None:
            bar.update(task, advance=step, note=note)

        yield advance


@contextmanager
def _lines(description: str, total: int, start: int) -> Iterator[Advance]:
    begun = time.monotonic()
    done, last_line = start, begun

    def advance(step: int = 1, note: str = "") -> None:
        nonlocal done, last_line
        done += step
        now = time.monotonic()
        if now - last_line >= _LINE_SECONDS or done >= total:
            last_line = now
            print(f"{description} {done}/{total} · {now - begun:.0f} s{' · ' + note if note else ''}", flush=True)

    yield advance
