"""What a whole training step costs beyond the bare networks, and the memory that its switches save.

Time: a step of `fit` (batch given, losses, gradient norm, checks, optimisers) against forward and backward pass of the
networks alone and the same optimisers' step, one thread, fp32. Pre-training is the improved preset at its reference
sizes, two samples of 384×1216 pixels; its bare encoders are given neighbourhoods and run as often as in the step: the
points of both views, those of the augmented one without gradients. Fine-tuning is ResNet-50 with DenseDepth, one
frame of 176×352 pixels.

Memory: the highest resident size of a process of its own over that before its one step (of `memory_samples` samples),
or before one InfoNCE loss.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from benchmarks import recipes
from benchmarks.measure import again_and_again, seconds, single_thread, store
from benchmarks.world import pack, render
from simipu_core.config import (
    FinetuneConfig,
    ImageViewConfig,
    LoopConfig,
    PairConfig,
    PointEncoderConfig,
    PretrainConfig,
)
from simipu_core.data.batches import DepthBatch, PairBatch
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.losses.info_nce import info_nce
from simipu_core.losses.sig_loss import at_size_of, sig_loss
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.image_encoder import feature_maps
from simipu_core.models.point_encoder import SetAbstraction
from simipu_core.models.simipu import SimIPU
from simipu_core.tracking.run import SilentRun
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.distributed import join
from simipu_core.training.loop import fit
from simipu_core.training.optimizers import finetuning_optimizer, pretraining_optimizers

_FIXED_SIZE = ImageViewConfig(long_side=(1216, 1216), short_side=(720, 720))
_STEPS = {
    "step": PretrainConfig(image=_FIXED_SIZE),
    "step_recompute_groups": PretrainConfig(image=_FIXED_SIZE, point_encoder=PointEncoderConfig(recompute_groups=True)),
    "step_every_member": PretrainConfig(image=_FIXED_SIZE),
}
"""Steps whose memory is measured; the last runs the first point layer on every member of a neighbourhood, as usual
code does."""
_LOGITS = {"logits": None, "logits_chunk_rows": 256}
"""InfoNCE of 4,096 rows, the published batch of one GPU, and the rows worked through at a time."""


def pair_batch(config: PretrainConfig, samples: int) -> PairBatch:
    """A batch of synthetic pairs of KITTI's size."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        render(Path(folder) / "raw", samples)
        pairs, _ = pack(Path(folder) / "raw", Path(folder), PairConfig())
        shards = Shards(pairs, "pairs")
        rows = [shards.row(index) for index in range(samples)]
    return PairViews(config)(rows, [np.random.default_rng(index) for index in range(samples)])


def fit_once(
    state: TrainingState, batch: Any, loss: Callable[[Any], Tensor], config: LoopConfig, clip: float | None
) -> None:
    """One step of the training loop."""
    with contextlib.redirect_stdout(io.StringIO()), join("cpu") as ranks:
        fit(
            "bench",
            state,
            again_and_again(batch),
            lambda batch: (loss(batch), dict),
            config,
            steps=1,
            run=SilentRun(),
            ranks=ranks,
            clip_norm=clip,
        )


def optimise(state: TrainingState, forward: Callable[[], list[Tensor]]) -> None:
    """The bare networks: forward, backward from fixed noise, optimisers."""
    state.model.train()
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    outputs = forward()
    torch.autograd.backward(outputs, [_noise(output.shape) for output in outputs])
    for optimizer in state.optimizers:
        optimizer.step()


@cache
def _noise(shape: torch.Size) -> Tensor:
    return torch.randn(shape)


def pretraining_tasks(samples: int) -> dict[str, Callable[[], None]]:
    """A whole step and its bare encoders."""
    config = PretrainConfig(image=_FIXED_SIZE)
    batch = pair_batch(config, samples)
    model = SimIPU(config)
    state = TrainingState(model, *pretraining_optimizers(model, config, 1000))
    twin = SimIPU(config)
    trained = [parameter for parameter in twin.image_encoder.parameters() if parameter.requires_grad]
    bare_optimizers: list[Optimizer] = [
        AdamW(twin.point_encoder.parameters(), lr=1e-12, fused=True),  # noise must not move the weights
        SGD(trained, lr=1e-12, momentum=0.9, weight_decay=1e-4, fused=True),
    ]

    def bare() -> list[Tensor]:
        points = twin.point_encoder(batch.original).features
        with torch.no_grad():
            twin.point_encoder(batch.augmented)
        images = feature_maps(twin.image_encoder, twin.normalize(batch.images), max(twin.levels) + 1)
        return [points, images[-1]]

    return {
        "pretrain_bare": lambda: optimise(TrainingState(twin, bare_optimizers, []), bare),
        "pretrain_step": lambda: fit_once(state, batch, lambda batch: model(batch).loss, config, None),
    }


def finetuning_tasks() -> dict[str, Callable[[], None]]:
    """A whole step and its bare network."""
    config = FinetuneConfig(init="kaiming_zero_gamma")
    net = build_depth_net(config, None)
    optimizer, schedule = finetuning_optimizer(net, config, 1000)
    state = TrainingState(net, [optimizer], [schedule])
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(rng.uniform(2, 80, (1, 1, 176, 352)).astype(np.float32))
    depth[torch.rand(depth.shape) > 0.2] = 0
    images = torch.from_numpy(rng.integers(0, 256, (1, 3, 176, 352), np.uint8))
    batch = DepthBatch(images, depth, ["frame"])

    def loss(batch: DepthBatch) -> Tensor:
        return sig_loss(at_size_of(batch.depth, net(batch.images)), batch.depth, config.sig_lambda)

    return {
        "finetune_bare": lambda: optimise(state, lambda: [net(batch.images)]),
        "finetune_step": lambda: fit_once(state, batch, loss, config, config.clip_norm),
    }


def memory(variant: str, samples: int) -> None:
    """Print the megabytes by which a variant raises this process's highest resident size."""
    single_thread()
    if variant == "step_every_member":
        SetAbstraction._pool = recipes.pool_every_member  # type: ignore[assignment, method-assign]
    if variant in _LOGITS:
        queries, keys = torch.randn(2, 4096, 128).requires_grad_().unbind()
        compute = lambda: info_nce(queries, keys, 0.07, chunk_rows=_LOGITS[variant]).loss  # noqa: E731
    else:
        batch, model = pair_batch(_STEPS[variant], samples), SimIPU(_STEPS[variant])
        compute = lambda: model(batch).loss  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # lowers the mark to the present size
    before = _highest_megabytes()
    compute().backward()  # type: ignore[no-untyped-call]
    print(_highest_megabytes() - before)


def _highest_megabytes() -> float:
    """Highest resident size; not ru_maxrss, which a process begins with at its parent's size."""
    mark = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(mark[1]) / 1e3 if mark else float("nan")


def main(samples: int = 2, rounds: int = 2, memory_samples: int = 2) -> None:
    """Measure, print and store."""
    single_thread()
    spent = seconds(finetuning_tasks(), 2 * rounds + 1) | seconds(pretraining_tasks(samples), rounds)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    megabytes = {}
    for variant in [*_STEPS, *_LOGITS]:
        command = [sys.executable, "-m", "benchmarks.bench_steps", variant, str(memory_samples)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        megabytes[variant] = float(done.stdout)
    store(
        "steps",
        {
            "cpu_seconds": spent,
            "pretrain_step_over_bare": spent["pretrain_step"] / spent["pretrain_bare"],
            "pretrain_goal": 1.15,
            "finetune_step_over_bare": spent["finetune_step"] / spent["finetune_bare"],
            "finetune_goal": 1.05,
            "memory_samples": memory_samples,
            "megabytes": megabytes,
        },
    )


if __name__ == "__main__":
    memory(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
