"""The plan of an experiment: one entry a training stage, and the disk all of it takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simipu_core.config import FinetuneConfig, LoopConfig, PretrainConfig
from simipu_core.config.section import Size
from simipu_core.data.image_views import resized
from simipu_core.data.loader import SampleOrder
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment
from simipu_core.geometry.crops import NYU_CROP, kb_crop
from simipu_core.planning.cost import StepCost, finetuning_cost, pretraining_cost
from simipu_core.planning.frames import Frames, frames
from simipu_core.planning.loading import depth_rate, pair_rate

_DRAWS = 256  # batches whose mean image size counts
GPUS: dict[str, tuple[float, float]] = {
    "a100": (312, 80),
    "h100": (989, 80),
    "h200": (989, 141),
    "l4": (121, 24),
    "l40s": (362, 48),
}
"""Dense bf16 peak, TFLOP/s, and memory, GB, as the maker states them."""
_REACHED = 0.31  # of a GPU's bf16 peak, by convolutions, compiled (benchmarks/results/gpu)
_SUSTAINED = 300.0  # TFLOP/s of an H100 in bf16, by that
_LEFT = {"bf16": 1.0, "tf32": 0.4, "fp32": 0.1}  # of that rate, by precision; bf16 alone was measured
_POINTS = 0.062  # of it is left for what stays fp32 under bf16: the point encoder, which memory limits (measured)
_FULL = 0.78  # of a GPU's memory is taken for full: gradients of activations and workspaces come on top (measured)


@dataclass(frozen=True)
class Device:
    """What trains."""

    tflops: float | None = None
    """Throughput of one device in a stage's precision, 10¹² FLOPs a second; None is what an H100 sustains, 300 in bf16
    and 30 in fp32."""
    memory_gb: float = 80.0
    """Memory of one device, 10⁹ bytes."""
    efficiency: float = 1.0
    """Share of it that training reaches; 1 where `tflops` is a sustained value."""
    num: int = 1
    """Devices that share every batch."""
    cores: int | None = None
    """Processor cores beside all of them; None leaves loading out."""
    price: float | None = None
    """Of an hour of one device, in any currency."""
    is_bf16: bool = False
    """`tflops` is that of bf16, of which other precisions reach a part."""

    @classmethod
    def named(cls, gpu: str) -> Self:
        """One of `GPUS`, of whose peak fine-tuning reaches 31 %."""
        peak, memory = GPUS[gpu]
        return cls(tflops=_REACHED * peak, memory_gb=memory, is_bf16=True)

    def rate(self, precision: str) -> float:
        """Throughput of one device in a stage of this precision, FLOPs a second."""
        share = _LEFT[precision] if self.tflops is None or self.is_bf16 else 1
        tflops = _SUSTAINED if self.tflops is None else self.tflops
        return 1e12 * tflops * share * self.efficiency

    def step_seconds(self, cost: StepCost, precision: str) -> float:
        """Time of one device for a micro-batch."""
        rate = self.rate(precision)
        full_rate = rate * _POINTS if cost.mixed_flops else rate
        return cost.mixed_flops / rate + (cost.flops - cost.mixed_flops) / full_rate


@dataclass(frozen=True)
class StagePlan:
    """One training stage. Memory is that of one device; FLOPs and time are those of all together."""

    stage: str
    samples: int
    """Training samples of one epoch."""
    batch_size: int
    steps_per_epoch: int
    steps: int
    image_size: Size
    """Height and width of a batch's images as the net sees them; of the mean area where sizes are drawn."""
    largest_image_size: Size
    precision: str
    tflops: float
    """Rate of one device that `seconds` is computed with, in this precision; what stays fp32 under bf16 is computed
    with 6 % of it."""
    parameters: int
    flops_per_step: int
    activation_bytes: int
    """Held between forward and backward pass of one micro-batch, at the largest image size."""
    state_bytes: int
    """Weights, statistics, gradients, optimiser."""
    fits: bool
    """Whether activations and state find room in the memory of one device."""
    accumulate: int
    """Micro-batches a step."""
    accumulate_that_fits: int | None
    """The fewest with which they would; None where they do, or where none does."""
    flops: int
    device_samples: float
    """Samples a second that all devices compute."""
    core_samples: float
    """Samples a second that one core loads."""
    cores_needed: int
    """Cores with which the loader does not limit."""
    bytes_per_second: float
    """Read from the shards."""
    limit: str
    """What is slowest: `device`, or `loader` with the cores that are there."""
    seconds: float
    """At the rate of what is slowest."""
    price: float | None
    """Of the devices for that time."""
    checkpoint_bytes: int
    """Of all that are kept at a time."""
    result_bytes: int
    """Weights handed on."""


@dataclass(frozen=True)
class Plan:
    """What an experiment will take."""

    experiment: str
    stages: list[StagePlan]
    shard_bytes: dict[str, int]
    """Of `pairs` and `depth`."""
    steps: int
    flops: int
    seconds: float
    price: float | None
    """Of the devices, where that of an hour is known."""
    disk_bytes: int
    """Shards, results, and the checkpoints of the stage that keeps most; they are removed after it."""
    notes: list[str]
    """Where counts come from, and what is assumed."""


def plan(
    experiment: Experiment, device: Device | None = None, *, pairs: Path | None = None, depth: Path | None = None
) -> Plan:
    """Count what every training stage takes, without data and without running anything.

    Args:
        experiment: what is planned.
        device: what it would run on; one that sustains 400 TFLOP/s by default.
        pairs: shards or catalogue of the pre-training pairs; None takes counts known beforehand.
        depth: the same for the depth frames.

    Raises:
        SimipuError: a count is not known beforehand, a folder holds something else, there are fewer samples than one
            batch holds, or a batch cannot be shared equally.
    """
    device = device or Device()
    finetune, stages, found = experiment.finetune, [], {}
    if finetune.needs_pretraining:
        found["pairs"] = frames(experiment, "pairs", pairs)
        stages.append(_pretraining(experiment, found["pairs"], device))
    found["depth"] = frames(experiment, "depth", depth)
    stages.append(_finetuning(experiment, found["depth"], device))
    if finetune.needs_control:
        stages.append(replace(stages[-1], stage="control"))
    shard_bytes = {use: each.shard_bytes for use, each in found.items()}
    results = sum(stage.result_bytes for stage in stages)
    return Plan(
        experiment=experiment.experiment,
        stages=stages,
        shard_bytes=shard_bytes,
        steps=sum(stage.steps for stage in stages),
        flops=sum(stage.flops for stage in stages),
        seconds=sum(stage.seconds for stage in stages),
        price=None if device.price is None else sum(stage.price or 0 for stage in stages),
        disk_bytes=sum(shard_bytes.values()) + results + max(stage.checkpoint_bytes for stage in stages),
        notes=[*_warnings(experiment, stages, device), *_notes(experiment, stages, found, device)],
    )


def _pretraining(experiment: Experiment, found: Frames, device: Device) -> StagePlan:
    config = experiment.pretrain
    samples = _micro_batch(config, "pretrain", device)
    mean, largest = padded_sizes(config, found.size, samples)
    loaded = pair_rate(config, experiment.pair, found.size)
    return _stage(
        "pretrain",
        config,
        found.train,
        device,
        loaded,
        found.row_bytes,
        mean,
        largest,
        lambda size: pretraining_cost(config, samples, size),
    )


def _finetuning(experiment: Experiment, found: Frames, device: Device) -> StagePlan:
    config = experiment.finetune
    samples = _micro_batch(config, "finetune", device)
    depth = _training_crop(config, found.size)
    image = config.shown_size(depth)
    frames = min(found.train, config.max_frames or found.train)
    return _stage(
        "finetune",
        config,
        frames,
        device,
        depth_rate(experiment.pair, found.size),
        found.row_bytes,
        image,
        image,
        lambda size: finetuning_cost(config, samples, size, depth),
    )


def _stage(
    name: str,
    config: LoopConfig,
    samples: int,
    device: Device,
    core_samples: float,
    row_bytes: float,
    mean: Size,
    largest: Size,
    cost_of_micro_batch: Callable[[Size], StepCost],
) -> StagePlan:
    per_epoch = SampleOrder([samples], config.batch_size, config.seed).steps_per_epoch
    steps = per_epoch * config.epochs
    cost = cost_of_micro_batch(mean)
    micro_batches = config.accumulate * device.num
    flops = cost.flops * micro_batches
    held = (cost if largest == mean else cost_of_micro_batch(largest)).activation_bytes
    room = _FULL * 1e9 * device.memory_gb - cost.state_bytes
    device_samples = config.batch_size / (config.accumulate * device.step_seconds(cost, config.precision))
    loaded = math.inf if device.cores is None else core_samples * device.cores
    seconds = steps * config.batch_size / min(device_samples, loaded)
    return StagePlan(
        stage=name,
        samples=samples,
        batch_size=config.batch_size,
        steps_per_epoch=per_epoch,
        steps=steps,
        image_size=mean,
        largest_image_size=largest,
        precision=config.precision,
        tflops=device.rate(config.precision) / 1e12,
        parameters=cost.parameters,
        flops_per_step=flops,
        activation_bytes=held,
        state_bytes=cost.state_bytes,
        fits=held <= room,
        accumulate=config.accumulate,
        accumulate_that_fits=None if held <= room else _accumulate_that_fits(config, device, held, room),
        flops=flops * steps,
        device_samples=device_samples,
        core_samples=core_samples,
        cores_needed=math.ceil(device_samples / core_samples),
        bytes_per_second=row_bytes * min(device_samples, loaded),
        limit="device" if device_samples <= loaded else "loader",
        seconds=seconds,
        price=None if device.price is None else device.price * device.num * seconds / 3600,
        checkpoint_bytes=cost.checkpoint_bytes * config.keep_checkpoints,
        result_bytes=cost.result_bytes,
    )


def _accumulate_that_fits(config: LoopConfig, device: Device, held: int, room: float) -> int | None:
    """The fewest micro-batches, of two samples at least, whose activations find room; these go with the samples."""
    share = config.batch_size // device.num
    for number in range(config.accumulate + 1, share // 2 + 1):
        if share % number == 0 and held * config.accumulate / number <= room:
            return number
    return None


def padded_sizes(config: PretrainConfig, frame: Size, samples: int) -> tuple[Size, Size]:
    """Sizes of a padded batch of pre-training images, pixels.

    Args:
        config: bounds and padding.
        frame: height and width of the camera's images.
        samples: images padded together.

    Returns:
        a size of nearly the mean area, and the largest that can be drawn.
    """
    image, rng = config.image, np.random.default_rng(0)
    shape = (_DRAWS, samples)
    bounds = np.stack(
        [rng.integers(low, high + 1, shape) for low, high in (image.long_side, image.short_side)], axis=-1
    )
    drawn = np.array([[resized(*frame, *sides) for sides in batch] for batch in bounds.tolist()]).max(axis=1)
    padded = _padded(drawn, image.pad_multiple)
    areas = padded.prod(axis=1)
    mean = padded[np.abs(areas - areas.mean()).argmin()]
    largest = _padded(np.array(resized(*frame, image.long_side[1], image.short_side[1])), image.pad_multiple)
    return (int(mean[0]), int(mean[1])), (int(largest[0]), int(largest[1]))


def _padded(sizes: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    return -(-sizes // multiple) * multiple


def _training_crop(config: FinetuneConfig, frame: Size) -> Size:
    augment = config.augment
    if augment.crop is not None:
        return augment.crop
    if augment.fixed_crop == "kb":
        return kb_crop(*frame).size
    return NYU_CROP.size if augment.fixed_crop == "nyu" else frame


def _micro_batch(config: LoopConfig, stage: str, device: Device) -> int:
    """Samples of one micro-batch of one device."""
    num = device.num * config.accumulate
    if config.batch_size % num:
        raise SimipuError(
            f"{stage}.batch_size {config.batch_size} cannot be cut into {device.num} devices times accumulate="
            f"{config.accumulate} equal micro-batches; set it to a multiple, or --devices to a divisor."
        )
    return config.batch_size // num


def _warnings(experiment: Experiment, stages: Sequence[StagePlan], device: Device) -> Iterator[str]:
    """What does not fit into the devices' memory, and the mend."""
    for stage in stages:
        if stage.fits or stage.stage == "control":  # which is fine-tuned as the net is
            continue
        needed = (stage.activation_bytes + stage.state_bytes) / 1e9
        problem = f"{stage.stage} does not fit: {needed:.3g} GB in {stage.precision}, of {device.memory_gb:g} GB"
        if (number := stage.accumulate_that_fits) is None:
            yield f"{problem}; use more devices, smaller images, or {_savings(experiment, stage)}."
            continue
        left = (stage.activation_bytes * stage.accumulate / number + stage.state_bytes) / 1e9
        samples = stage.batch_size // (number * device.num)
        yield (
            f"{problem}; set {stage.stage}.accumulate={number}, which needs {left:.3g} GB: BatchNorm then sees "
            f"{_negatives(experiment, stage, samples)} samples at a time."
        )


def _savings(experiment: Experiment, stage: StagePlan) -> str:
    settings = [] if stage.precision == "bf16" else [f"{stage.stage}.precision=bf16"]
    if stage.stage == "pretrain" and not experiment.pretrain.point_encoder.recompute_groups:
        settings.append("pretrain.point_encoder.recompute_groups=true")
    return " and ".join(settings) or "a smaller encoder"


def _negatives(experiment: Experiment, stage: StagePlan, samples: int) -> str:
    is_cut = stage.stage == "pretrain" and samples < experiment.pretrain.contrast.group_size
    return f"and the losses contrast, {samples}" if is_cut else f"{samples}"


def _cores(device: Device) -> str:
    if device.cores is None:
        return "it is taken to keep up, with as many cores as it says; --cores says how many there are"
    return f"{device.cores} cores are shared by all devices"


def _notes(experiment: Experiment, stages: Sequence[StagePlan], found: dict[str, Frames], device: Device) -> list[str]:
    notes = [f"{use}: {each.origin}." for use, each in found.items()]
    share = "" if device.efficiency == 1 else f", of which training reaches {device.efficiency:.0%}"
    rates = " and ".join(dict.fromkeys(f"{s.tflops / device.efficiency:g} TFLOP/s in {s.precision}" for s in stages))
    where = "one device" if device.num == 1 else f"each of {device.num} devices"
    notes += [
        f"Time: {rates} on {where}{share}; an H100 sustains about 300 TFLOP/s in bf16 (31 % of its peak), a tenth of "
        "that in fp32, and 6 % in the point encoder, where it stays fp32 under bf16. Matrix products and convolutions "
        "alone are counted; probes and evaluation are taken to be short.",
        f"Loading: as measured on one core of a server; {_cores(device)}.",
        "Activations: what one device holds from forward to backward pass of the largest batch; gradients of "
        "activations and workspaces come on top.",
    ]
    if experiment.finetune.needs_pretraining and experiment.pretrain.point_encoder.sampling == "feature_halves":
        notes.append("Not counted: picks by learnt features, one after the other on the device, and their matching.")
    return notes
