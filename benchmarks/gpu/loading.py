"""Whether the loader feeds the card: samples a second of all cores and of one, and of the training that it feeds."""

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

from benchmarks.gpu.agenda import Part, Stage, best, stages
from benchmarks.gpu.compiling import prepared
from simipu_core.data.loader import SampleOrder, batches

_EXPECTED = 60.0
"""Seconds that a measurement is taken to need."""


def run(part: Part) -> None:
    """Loading alone, then training from it; cores are counted against the card's rate that `throughput` found."""
    cores = len(os.sched_getaffinity(0))
    file = part.out / "gpu_throughput.json"
    known = json.loads(file.read_text(encoding="utf-8"))["found"] if file.is_file() else {}
    for stage in stages(part.sizes, part.data):
        demand = best({name: entry for name, entry in known.items() if name.startswith(stage.name)})
        part.measure(f"{stage.name} loader", partial(_against_the_card, part, stage, cores, demand), _EXPECTED)
        part.measure(f"{stage.name} fed", partial(_fed, part, stage, cores), _EXPECTED)


def _against_the_card(part: Part, stage: Stage, cores: int, demand: float | None) -> dict[str, float]:
    rate = loaded(part, stage, stage.batch_sizes[0], cores)
    finding = {"cores": cores, "samples_per_second": rate, "samples_per_second_and_core": rate / cores}
    if demand:
        finding |= {"card_samples_per_second": demand, "cores_needed": demand * cores / rate}
    return finding


def _fed(part: Part, stage: Stage, cores: int) -> dict[str, float]:
    return {"samples_per_second": fed(part, stage, stage.batch_sizes[0], cores)}


def loaded(part: Part, stage: Stage, samples: int, workers: int) -> float:
    """Samples a second of the loader alone, once every worker has begun."""
    first, num = workers // 2 + 1, part.sizes.loaded_batches
    with closing(_load(stage, samples, workers)(range(first + num))) as source:
        for _ in islice(source, first):
            pass
        begun = time.perf_counter()
        for _ in source:
            pass
    return num * samples / (time.perf_counter() - begun)


def fed(part: Part, stage: Stage, samples: int, workers: int) -> float:
    """Samples a second of training in bf16, compiled, from the loader."""
    config = stage.configured(precision="bf16", channels_last=True, compile=part.sizes.compiles)
    first, num = workers // 2 + 3, part.sizes.loaded_batches
    model = prepared(stage.build(), config, part.device)
    ends = stage.train(model, config, _load(stage, samples, workers), first + num, part.device)
    return num * samples / (ends[-1] - ends[first - 1])


def _load(stage: Stage, samples: int, workers: int) -> Callable[[range], Generator[Any, None, None]]:
    """As in training; the few rows there are count several times."""
    repeated = _Repeated(stage.shards, samples)
    order = SampleOrder(repeated.group_sizes, samples, 0)
    return lambda steps: batches(repeated, order, stage.views, steps=steps, workers=workers)


class _Repeated:
    """Rows that count several times, until they fill a batch."""

    def __init__(self, shards: Any, samples: int) -> None:
        self._shards = shards
        self.group_sizes = list(shards.group_sizes) * -(-samples // len(shards))

    def row(self, index: int) -> Any:
        return self._shards.row(index % len(self._shards))

    def expect(self, indices: Any) -> None:
        self._shards.expect([index % len(self._shards) for index in indices])
