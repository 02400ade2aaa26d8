"""Whether the loader feeds the card: samples a second of all cores and of one, and of the training that it feeds."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from typing import Any

from benchmarks.gpu.agenda import Part, Stage, best, stages, with_settings
from benchmarks.gpu.compiling import prepared
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.loader import SampleOrder, batches
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.tracking.run import SilentRun
from simipu_core.training.distributed import Ranks
from simipu_core.training.loop import fit

_EXPECTED = 60.0
"""Seconds that a measurement is taken to need."""


def run(part: Part) -> None:
    """Loading alone, then training from it; cores are counted against the card's rate that `throughput` found."""
    cores = len(os.sched_getaffinity(0))
    file = part.out / "gpu_throughput.json"
    known = json.loads(file.read_text(encoding="utf-8"))["found"] if file.is_file() else {}
    for stage in stages(part.sizes, part.data):
        if not part.has_time(stage.name, _EXPECTED if part.device.type == "cuda" else 0):
            continue
        sizes = part.sizes.pretrain_batches if stage.name == "pretrain" else part.sizes.finetune_batches
        rate = loaded(part, stage, sizes[0], cores)
        demand = best({name: entry for name, entry in known.items() if name.startswith(stage.name)})
        finding = {"cores": cores, "samples_per_second": rate, "samples_per_second_and_core": rate / cores}
        if demand:
            finding |= {"card_samples_per_second": demand, "cores_needed": demand * cores / rate}
        part.keep(f"{stage.name} loader", finding)
        if part.has_time(f"{stage.name} fed", _EXPECTED if part.device.type == "cuda" else 0):
            part.keep(f"{stage.name} fed", {"samples_per_second": fed(part, stage, sizes[0], cores)})


def loaded(part: Part, stage: Stage, samples: int, workers: int) -> float:
    """Samples a second of the loader alone, once every worker has begun."""
    first, num = workers // 2 + 1, part.sizes.loaded_batches
    with closing(_load(part, stage, samples, workers)(range(first + num))) as source:
        for _ in islice(source, first):
            pass
        begun = time.perf_counter()
        for _ in source:
            pass
    return num * samples / (time.perf_counter() - begun)


def fed(part: Part, stage: Stage, samples: int, workers: int) -> float:
    """Samples a second of training in bf16, compiled, from the loader."""
    config = with_settings(stage.config, precision="bf16", channels_last=True, compile=part.sizes.compiles)
    model = prepared(stage.build(), config, part.device)
    ends: list[float] = []

    def after_step(_done: int) -> dict[str, float]:
        ends.append(time.perf_counter())
        return {}

    first, num = workers // 2 + 3, part.sizes.loaded_batches
    with contextlib.redirect_stdout(io.StringIO()):
        fit(
            stage.name,
            stage.optimise(model),
            _load(part, stage, samples, workers),
            lambda batch: (stage.loss(model, batch), dict),
            config,
            steps=first + num,
            run=SilentRun(),
            ranks=Ranks(0, 1, part.device),
            after_step=after_step,
        )
    return num * samples / (ends[-1] - ends[first - 1])


def _load(part: Part, stage: Stage, samples: int, workers: int) -> Callable[[range], Generator[Any, None, None]]:
    """As in training; the few rows there are count several times."""
    shards: Any
    views: Any
    if stage.name == "pretrain":
        shards, views = Shards(part.data.pairs, "pairs"), PairViews(part.sizes.pretrain)
    else:
        config = part.sizes.finetune
        shards = Shards(part.data.depth, "depth", "train")
        views = DepthViews(config.augment, config.input_scale)
    repeated = _Repeated(shards, samples)
    order = SampleOrder(repeated.group_sizes, samples, 0)
    return lambda steps: batches(repeated, order, views, steps=steps, workers=workers)


class _Repeated:
    """Rows that count several times, until they fill a batch."""

    def __init__(self, shards: Any, samples: int) -> None:
        self._shards = shards
        self.group_sizes = list(shards.group_sizes) * -(-samples // len(shards))

    def row(self, index: int) -> Any:
        return self._shards.row(index % len(self._shards))

    def expect(self, indices: Any) -> None:
        self._shards.expect([index % len(self._shards) for index in indices])
