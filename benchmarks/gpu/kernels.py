"""Where a training step's time on the card goes: its kernels by their share, and how long the card waits."""

import time
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.agenda import Part, Stage, stages
from benchmarks.gpu.compiling import prepared
from benchmarks.measure import again_and_again
from simipu_core.training.devices import to_device

_WARM_UP, _STEPS, _SHOWN = 4, 3, 60
_EXPECTED = 40.0


def run(part: Part) -> None:
    """The fastest setting of each stage."""
    for stage in stages(part.sizes, part.data):
        part.measure(stage.name, partial(profiled, part, stage), _EXPECTED)


def profiled(part: Part, stage: Stage) -> dict[str, Any]:
    """Milliseconds of a step, share of it in which the card computes, and of the kernels that take most."""
    mixed = {"mixed_points": True} if stage.has({"mixed_points": True}) else {}
    config = stage.configured(precision="bf16", channels_last=True, compile=part.sizes.compiles, **mixed)
    torch.manual_seed(0)
    model = prepared(stage.build(), config, part.device)
    batch = to_device(stage.batch(stage.batch_sizes[0]), part.device)
    stage.train(model, config, again_and_again(batch), _WARM_UP, part.device)
    is_cuda = part.device.type == "cuda"
    begun = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA] if is_cuda else [ProfilerActivity.CPU]) as seen:
        stage.train(model, config, again_and_again(batch), _STEPS, part.device)
    seconds = (time.perf_counter() - begun) / _STEPS
    times: Counter[str] = Counter()
    for event in seen.key_averages():
        spent = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        times[event.key[:120]] += spent / 1e6 / _STEPS
    return {
        "step_milliseconds": 1000 * seconds,
        "busy_milliseconds": 1000 * sum(times.values()),
        "kernels": {name: 1000 * spent for name, spent in times.most_common(_SHOWN)},
    }
