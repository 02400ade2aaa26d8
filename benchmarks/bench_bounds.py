"""What bounds on workers cost where all files are good: ingest and pair, against a plain pool of processes.

Frames are 96×320 pixels with 20,000 rays, 64 different ones under as many names as are asked for. The plain pool has no
bounds: `ProcessPoolExecutor`, handed the same chunks in the same order. Both take turns in one run, each measurement in
a process of its own (`bench_packing.cost`); ratios are of medians.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.bench_packing import Cost, cost, link_frames, pack
from benchmarks.measure import store
from simipu_core import parallel, workers
from simipu_core.config import SyntheticConfig
from simipu_core.synthetic import synthesize


def unbounded(function: Callable[[Any], Any], chunks: Iterator[Sequence[Any]], size: int, _: object) -> Iterator[Any]:
    """What `parallel` does, by a pool of the standard library."""
    with ProcessPoolExecutor(size, workers._fork_server(), workers._begin, (dict(os.environ),)) as pool:
        waiting = deque(pool.submit(_apply, function, chunk) for chunk in islice(chunks, 2 * size))
        while waiting:
            results = waiting.popleft().result()
            waiting.extend(pool.submit(_apply, function, chunk) for chunk in islice(chunks, 1))
            yield from results


def _apply(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


def pack_unbounded(raw: Path, out: Path) -> None:
    """Ingest and pair without bounds."""
    with patch.object(parallel, "_map_processes", unbounded):
        pack(raw, out)


def main(frames: int = 1000, rounds: int = 7) -> None:
    """Measure, print and store."""
    tasks = {"bounded": pack, "unbounded": pack_unbounded}
    costs: dict[str, list[Cost]] = {name: [] for name in tasks}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        synthesize(SyntheticConfig(object_frames=64, drives=0), root / "world")
        for name, count in (("warm", 8), ("raw", frames)):
            link_frames(root / "world" / "kitti_object", root / name, count)
        for number in range(rounds):
            for name in sorted(tasks, reverse=bool(number % 2)):
                out = root / f"{name}_{number}"
                costs[name].append(cost(tasks[name], root / "raw", out, root / "warm"))
    middle = {name: Cost(*map(median, zip(*each, strict=True))) for name, each in costs.items()}
    bounded, free = middle["bounded"], middle["unbounded"]
    store(
        "bounds",
        {
            "frames": frames,
            "processes": len(os.sched_getaffinity(0)),
            "frames_per_second": {name: frames / each.seconds for name, each in middle.items()},
            "cpu_seconds": {name: each.cpu_seconds for name, each in middle.items()},
            "seconds_bounded_over_unbounded": bounded.seconds / free.seconds,
            "cpu_bounded_over_unbounded": bounded.cpu_seconds / free.cpu_seconds,
        },
    )


if __name__ == "__main__":
    main()
