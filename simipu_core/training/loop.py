"""The training loop of both stages."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from simipu_core.config import LoopConfig
from simipu_core.errors import SimipuError
from simipu_core.progress import progress
from simipu_core.tracking.run import Run
from simipu_core.training.checkpoint import Checkpoints, TrainingState


class Batch(Protocol):
    """Anything with the ids of its samples."""

    @property
    def sample_ids(self) -> list[str]: ...


BatchT = TypeVar("BatchT", bound=Batch)


def fit(
    name: str,
    state: TrainingState,
    load: Callable[[range], Iterator[BatchT]],
    compute: Callable[[BatchT], dict[str, Tensor]],
    config: LoopConfig,
    *,
    steps: int,
    device: torch.device,
    run: Run,
    checkpoints: Checkpoints | None = None,
    clip_norm: float | None = None,
) -> None:
    """Train for `steps` steps, going on from the newest checkpoint where there is one.

    Args:
        name: what is shown while it runs.
        state: model, optimisers and schedules; changed in place.
        load: gives the batches of a range of steps.
        compute: gives the values of a batch, ``loss`` among them; the rest is logged.
        config: logging and checkpoint intervals.
        steps: optimiser steps in all.
        device: where the model is.
        run: where values are logged.
        checkpoints: where the state is saved.
        clip_norm: largest gradient L2 norm; None clips nothing.

    Raises:
        SimipuError: the loss is not finite; the message names the batch's samples.
    """
    model = state.model
    model.train()
    start = checkpoints.resume(state) if checkpoints else 0
    with progress(name, steps, start) as advance:
        for step, batch in enumerate(load(range(start, steps)), start):
            values = compute(to_device(batch, device))
            loss = values["loss"]
            loss_value = loss.item()  # waits for the device: once a step
            if not math.isfinite(loss_value):
                raise SimipuError(
                    f"{name}: the loss is {loss_value} at step {step} (samples {', '.join(batch.sample_ids)}); "
                    "look at these samples or lower the learning rate."
                )
            for optimizer in state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip_norm is not None:
                values["gradient_norm"] = clip_grad_norm_(model.parameters(), clip_norm)
            if step % config.log_every == 0 or step == steps - 1:
                logged: dict[str, float] = {key: value.item() for key, value in values.items()}
                logged["lr"] = float(state.schedulers[0].get_last_lr()[0])
                run.log_metrics(logged, step)
            for optimizer in state.optimizers:
                optimizer.step()
            for scheduler in state.schedulers:
                scheduler.step()
            if checkpoints and (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
                checkpoints.save(step + 1, state)
            advance(note=f"loss {loss_value:.3f}")
    model.eval()


def to_device(batch: BatchT, device: torch.device) -> BatchT:
    """The same batch (a dataclass of tensors) on a device."""
    if device.type == "cpu":
        return batch
    moved: BatchT = _move(batch, device)
    return moved


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _move(getattr(value, field.name), device) for field in fields(value)})
    return value


def pick_device(name: str) -> torch.device:
    """`auto` → the GPU where there is one.

    Raises:
        SimipuError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SimipuError("device is `cuda`, but no GPU is visible here; set device to `auto` or `cpu`.")
    return torch.device(name)
