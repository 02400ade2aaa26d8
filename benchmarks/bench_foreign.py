"""What it costs on good files to read foreign bytes within bounds: `examine` of KITTI frames, by one process.

`bounded` is what ingest does: another process reads, bounded anew for each frame. `unbounded` is that process without
bounds, `here` no other process. Frames are 375×1242 pixels, a few different ones again and again; times are the least
of several rounds in which all take turns, on the clock, per frame, the start of the process told apart.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import single_thread, store
from simipu_core.config import SyntheticConfig
from simipu_core.data import catalogue
from simipu_core.data.frames import Frame, too_much
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.parallel import map_frames
from simipu_core.synthetic import synthesize

_DISTINCT = 8


def clock(task: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def main(num_frames: int = 256, rounds: int = 5) -> None:
    """Measure, print and store."""
    single_thread()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kitti_object"
        synthesize(SyntheticConfig(object_frames=_DISTINCT, drives=0, image_size=(375, 1242)), Path(name))
        found = [frame for frame in KittiObject().each_frame(folder) if isinstance(frame, Frame)]
        frames = found * (num_frames // len(found))
        examine = partial(catalogue.examine, folder)

        def work(frames: list[Frame], workers: int, *, is_bounded: bool) -> list[object]:
            rejected = too_much if is_bounded else None
            return list(map_frames(examine, frames, "examine", workers=workers, rejected=rejected))

        tasks: dict[str, Callable[[list[Frame]], object]] = {
            "here": lambda some: work(some, 0, is_bounded=False),
            "unbounded": lambda some: work(some, 1, is_bounded=False),
            "bounded": lambda some: work(some, 1, is_bounded=True),
        }
        least = dict.fromkeys(tasks, float("inf"))
        start = dict.fromkeys(tasks, float("inf"))
        for _ in range(rounds):
            for kind, task in tasks.items():
                start[kind] = min(start[kind], clock(partial(task, frames[:1])))
                least[kind] = min(least[kind], clock(partial(task, frames)))
    per_frame = {kind: (least[kind] - start[kind]) / (len(frames) - 1) for kind in tasks}
    store(
        "foreign",
        {
            "frames": len(frames),
            "milliseconds_per_frame": {kind: 1000 * seconds for kind, seconds in per_frame.items()},
            "bounded_over_unbounded": per_frame["bounded"] / per_frame["unbounded"],
            "bounded_over_here": per_frame["bounded"] / per_frame["here"],
            "seconds_to_start": start["bounded"] - start["here"],
            "goal": 1.03,
        },
    )


if __name__ == "__main__":
    main()
