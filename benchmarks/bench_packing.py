"""Packing raw frames into shards: against the obvious script, and whether 2,000 frames cost ten times 200.

The script reads a frame's files, keeps the points in the image and collects rows, which it writes at the end, in one
process. Ingest and pair also check every file, compute checksums and visibility, shuffle, and write as they go, with a
process a core. Frames are 96×320 pixels with 20,000 rays, 64 different ones under as many names as are asked for. A
measurement is made in a process of its own that has imported all it needs, and is the median of several rounds in which
all take turns; memory is what all its processes together hold, files mapped into them left out.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import store
from simipu_core.config import PairConfig, SyntheticConfig
from simipu_core.data.images import decode_image
from simipu_core.data.shards import Shards
from simipu_core.data.sources.kitti_object import KittiObject
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.synthetic import synthesize

_DISTINCT = 64


class Cost(NamedTuple):
    """What a task took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def link_frames(rendered: Path, folder: Path, count: int) -> None:
    """As many frames as are asked for, which are links to the rendered ones."""
    for kind, suffix in (("image_2", "png"), ("velodyne", "bin"), ("calib", "txt")):
        (folder / "training" / kind).mkdir(parents=True)
        for index in range(count):
            source = rendered / "training" / kind / f"{index % _DISTINCT:06d}.{suffix}"
            (folder / "training" / kind / f"{index:06d}.{suffix}").hardlink_to(source)


def pack(raw: Path, out: Path) -> None:
    """Ingest and pair."""
    ingest(KittiObject(), out / "frames", root=str(raw))
    pair(out / "frames", PairConfig(), "pairs", out / "pairs")


def script(raw: Path, out: Path) -> None:
    """The obvious script."""
    training, rows = raw / "training", []
    for image in sorted((training / "image_2").iterdir()):
        lines = (training / "calib" / f"{image.stem}.txt").read_text().splitlines()
        calibration = {line.split(":")[0]: np.array(line.split(":")[1].split(), float) for line in lines if ":" in line}
        rectification, velo_to_cam = np.eye(4), np.eye(4)
        rectification[:3, :3] = calibration["R0_rect"].reshape(3, 3)
        velo_to_cam[:3] = calibration["Tr_velo_to_cam"].reshape(3, 4)
        projection = calibration["P2"].reshape(3, 4) @ rectification @ velo_to_cam
        points = np.fromfile(training / "velodyne" / f"{image.stem}.bin", np.float32).reshape(-1, 4)
        u, v, depth = projection @ np.c_[points[:, :3], np.ones(len(points))].T
        kept = (depth > 0) & (u >= 0) & (u < 320 * depth) & (v >= 0) & (v < 96 * depth)
        rows.append({"id": image.stem, "image": image.read_bytes(), "points": points[kept].tobytes()})
    out.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), out / "pairs.parquet")


def read(_raw: Path, out: Path) -> None:
    """One epoch in the order of training, every image decoded."""
    from simipu_core.data.loader import SampleOrder, batches

    shards = Shards(out / "pairs", "pairs")
    order = SampleOrder(shards.group_sizes, 8, 0)

    def decode(rows: Any, _: Any) -> int:
        return sum(decode_image(row["image"]).size for row in rows)

    for _ in batches(shards, order, decode, steps=range(order.steps_per_epoch), workers=0):
        pass


def warmed(out: Path) -> Path:
    """Where the small task before the measured one writes."""
    return out.with_name(f"{out.name}_warm")


def _measured(task: Callable[[Path, Path], None], raw: Path, out: Path, warm: Path, answer: Connection) -> None:
    """Do a task after a small one, which imports what is needed; answer with its seconds and processor seconds."""
    task(warm, warmed(out))
    begun, before = time.perf_counter(), time.process_time()
    task(raw, out)
    answer.send((time.perf_counter() - begun, time.process_time() - before))


def cost(task: Callable[[Path, Path], None], raw: Path, out: Path, warm: Path) -> Cost:
    """Run a task in a new process, watched from outside with the processes that it starts."""
    context = multiprocessing.get_context("spawn")
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(task, raw, out, warm, answer))
    process.start()
    root, workers, peak = psutil.Process(process.pid), dict[int, float](), 0.0
    while process.is_alive():
        held = 0
        with suppress(psutil.NoSuchProcess):
            for each in [root, *root.children(recursive=True)]:
                memory, times = each.memory_info(), each.cpu_times()
                held += memory.rss - memory.shared
                if each.pid != root.pid:
                    workers[each.pid] = times.user + times.system
        peak = max(peak, held)
        process.join(0.05)
    if process.exitcode:
        raise SystemExit(f"a task ended with {process.exitcode}")
    seconds, cpu_seconds = answers.recv()
    return Cost(seconds, cpu_seconds + sum(workers.values()), peak / 1e6)


def main(counts: tuple[int, int, int] = (200, 1100, 2000), rounds: int = 5) -> None:
    """Measure, print and store."""
    few, half, many = counts
    tasks = {"pack": pack, "read": read, "script": script}
    runs: dict[tuple[str, int], list[Cost]] = {(task, count): [] for task in tasks for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        synthesize(SyntheticConfig(object_frames=_DISTINCT, drives=0), root / "world")
        for name, count in {"warm": 8, **{str(count): count for count in counts}}.items():
            link_frames(root / "world" / "kitti_object", root / f"raw_{name}", count)
        for _ in range(rounds):
            for task, count in runs:
                out = root / f"{'script' if task == 'script' else 'ours'}_{count}"
                if task != "read":
                    shutil.rmtree(out, ignore_errors=True)
                    shutil.rmtree(warmed(out), ignore_errors=True)
                runs[task, count].append(cost(tasks[task], root / f"raw_{count}", out, root / "raw_warm"))
    costs = {
        task: {count: Cost(*map(median, zip(*runs[task, count], strict=True))) for count in counts} for task in tasks
    }
    spent = {task: {count: cost.cpu_seconds for count, cost in measured.items()} for task, measured in costs.items()}
    halves = {task: [cost[half] - cost[few], cost[many] - cost[half]] for task, cost in spent.items()}
    store(
        "packing",
        {
            "frames": many,
            "processes": len(os.sched_getaffinity(0)),
            "frames_per_second": {task: many / cost[many].seconds for task, cost in costs.items()},
            "cpu_ms_per_frame": {task: 1e3 * sum(pair) / (many - few) for task, pair in halves.items()},
            "cpu_seconds_to_start": {
                task: cost[few] - few * sum(halves[task]) / (many - few) for task, cost in spent.items()
            },
            "pack_over_script_by_the_clock": costs["script"][many].seconds / costs["pack"][many].seconds,
            "cpu_of_the_second_half_over_the_first": {task: later / sooner for task, (sooner, later) in halves.items()},
            "peak_mb": {task: {count: value.peak_mb for count, value in cost.items()} for task, cost in costs.items()},
        },
    )


if __name__ == "__main__":
    main()
