"""Training steps whose batch lies on the card: samples a second, share of the peak, memory against the plan."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.agenda import Part, Stage, peak, stages
from benchmarks.gpu.compiling import prepared
from benchmarks.measure import again_and_again
from simipu_core.training.devices import to_device

SETTINGS: dict[str, dict[str, Any]] = {
    "bf16 channels_last": {"channels_last": True},
    "bf16 channels_last compile": {"channels_last": True, "compile": True},
    "bf16 channels_last compile mixed points": {"channels_last": True, "compile": True, "mixed_points": True},
    "bf16 channels_last deterministic": {"channels_last": True, "deterministic": True},
    "bf16": {},
}
"""`mixed points`: pre-training's point encoder in bf16, too."""
_FASTEST = "bf16 channels_last compile"
_WARM_UP = 3
_EXPECTED = 25.0
"""Seconds that a setting is taken to need; compiling takes most of them."""


def run(part: Part) -> None:
    """All settings at the first batch size, then the other batch sizes."""
    of_stage = stages(part.sizes, part.data)
    settings = part.sizes.settings(SETTINGS)
    tasks = [
        (stage, name, stage.batch_sizes[0]) for name in settings for stage in of_stage if stage.has(settings[name])
    ]
    tasks += [(stage, _FASTEST, size) for stage in of_stage for size in stage.batch_sizes[1:] if _FASTEST in settings]
    for stage, name, samples in tasks:
        task = partial(measured, stage, SETTINGS[name], samples, part)
        part.measure(f"{stage.name} {name} {samples}", task, _EXPECTED)


def measured(stage: Stage, settings: Mapping[str, Any], samples: int, part: Part) -> dict[str, Any]:
    """One setting."""
    config = stage.configured(precision="bf16", **settings)
    is_cuda = part.device.type == "cuda"
    cost = stage.cost(config, samples)
    planned = cost.activation_bytes + cost.state_bytes
    try:
        if is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = step_seconds(stage, config, to_device(stage.batch(samples), part.device), part)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True, "planned_gigabytes": planned / 1e9}
    rate = cost.flops / seconds
    most = peak(part.device)
    return {
        "samples_per_second": samples / seconds,
        "tflops": rate / 1e12,
        "share_of_peak": most and rate / most,
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if is_cuda else None,
        "planned_gigabytes": planned / 1e9,
    }


def step_seconds(stage: Stage, config: Any, batch: Any, part: Part) -> float:
    """Median seconds of the training loop's steps, which wait for the card."""
    torch.manual_seed(0)
    model = prepared(stage.build(), config, part.device)
    steps = _WARM_UP + part.sizes.steps
    ends = stage.train(model, config, again_and_again(batch), steps, part.device)
    return median(later - sooner for sooner, later in pairwise(ends[_WARM_UP - 1 :]))
