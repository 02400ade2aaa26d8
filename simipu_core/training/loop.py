"""The training loop of both stages."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from simipu_core.config import LoopConfig
from simipu_core.errors import SimipuError, StoppedError
from simipu_core.progress import Advance, progress
from simipu_core.termination import termination
from simipu_core.tracking.run import Run
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from simipu_core.training.devices import autocast, to_device
from simipu_core.training.distributed import Ranks, keep_gradients_local, without_wrapper
from simipu_core.training.guards import Watch, check_all_trained, norm_errors


class Batch(Protocol):
    """Anything with the ids of its samples."""

    @property
    def sample_ids(self) -> list[str]: ...


BatchT = TypeVar("BatchT", bound=Batch)
Values = Mapping[str, Tensor | float]
Compute = Callable[[BatchT], tuple[Tensor, Callable[[], Values]]]


def fit(
    name: str,
    state: TrainingState,
    load: Callable[[range], Generator[BatchT, None, None]],
    compute: Compute[BatchT],
    config: LoopConfig,
    *,
    steps: int,
    run: Run,
    ranks: Ranks,
    checkpoints: Checkpoints | None = None,
    clip_norm: float | None = None,
    after_step: Callable[[int], Mapping[str, float]] | None = None,
) -> None:
    """Train for `steps` steps, going on from the newest checkpoint where there is one.

    A step's gradient is the mean over `config.accumulate` micro-batches and over all ranks. The device is waited for
    once a step. SIGTERM, Ctrl-C or the end of the
    terminal ends the training after the step under way, with a checkpoint.

    Args:
        name: what is shown while it runs.
        state: model, optimisers and schedules; changed in place.
        load: gives this rank's micro-batches of a range of steps, in order.
        compute: gives the loss of a micro-batch, and a function for further values to log, which is called on logged
            steps only; logged are their means over the first rank's micro-batches, and the loss's mean over all ranks
            too.
        config: micro-batches a step, precision, limits, intervals of logging and checkpoints.
        steps: optimiser steps in all.
        run: where the first rank logs.
        ranks: the processes that train together.
        checkpoints: where the first rank saves the state; every rank must be able to read it.
        clip_norm: largest gradient L2 norm; None clips nothing.
        after_step: called on every rank with the number of steps done, before a checkpoint is saved; what it returns
            is logged. What it changes must be part of `state`, and it leaves the model in training mode.

    Raises:
        SimipuError: a loss or gradient is not finite or the training diverged (the message names the samples), a
            parameter gets no gradient, the ranks see different checkpoints, or it was asked to end.
    """
    state.model.train()
    start = _resume(name, state, checkpoints, ranks)
    watch = Watch(name, config.divergence_factor)
    with (
        closing(load(range(start, steps))) as micro_batches,
        termination() as ending,
        _progress(name, steps, start, ranks) as advance,
    ):
        for step in range(start, steps):
            is_logged = step % config.log_every == 0 or step == steps - 1
            done = _gradients(name, state, micro_batches, compute, config, ranks.device, is_logged)
            if step == start:
                check_all_trained(name, without_wrapper(state.model))
            norm = get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
            own_loss, mean_loss, gradient_norm, is_ending = _agree(ranks, done.loss, norm, ending.is_asked)
            watch.check(step, own_loss, mean_loss, gradient_norm, done.sample_ids)
            if clip_norm is not None:
                clip_grads_with_norm_(state.model.parameters(), clip_norm, norm)
            logged = _means(done.values) | {"loss": mean_loss, "gradient_norm": gradient_norm, "lr": _lr(state)}
            for optimizer in state.optimizers:
                optimizer.step()
            for scheduler in state.schedulers:
                scheduler.step()
            further = after_step(step + 1) if after_step else {}
            if ranks.is_first and (is_logged or further):
                run.log_metrics((logged if is_logged else {}) | dict(further), step)

            is_due = (step + 1) % config.checkpoint_every == 0 and step + 1 < steps
            if checkpoints and ranks.is_first and (is_due or is_ending):
                checkpoints.save(step + 1, state)
            advance(note=f"loss {mean_loss:.3f}")
            if is_ending:
                ranks.wait()  # for the checkpoint: when one process ends, torchrun ends the others
                raise StoppedError(_stopped_message(name, ending.name, step + 1, steps, checkpoints), ending.signal)
    state.model.eval()


@dataclass
class _Gradients:
    """What one step left behind, besides the gradients themselves."""

    loss: Tensor
    """Mean over this rank's micro-batches, detached."""
    sample_ids: list[str] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    """Further values of each micro-batch, on logged steps."""


def _gradients(
    name: str,
    state: TrainingState,
    micro_batches: Iterator[BatchT],
    compute: Compute[BatchT],
    config: LoopConfig,
    device: torch.device,
    is_logged: bool,
) -> _Gradients:
    """Add up the gradients of one step's micro-batches; the last one's backward pass averages them over the ranks."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    done = _Gradients(torch.zeros((), device=device))
    for number in range(config.accumulate):
        batch = next(micro_batches)
        with keep_gradients_local(state.model, number < config.accumulate - 1):
            with autocast(config.precision, device), norm_errors(name, batch.sample_ids):
                loss, values = compute(to_device(batch, device))
            (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        done.loss += loss.detach() / config.accumulate
        done.sample_ids += batch.sample_ids
        if is_logged:
            with torch.no_grad():
                done.values.append(values())
    return done


def _agree(
    ranks: Ranks, loss: Tensor, gradient_norm: Tensor, is_asked_to_end: bool
) -> tuple[float, float, float, bool]:
    """This rank's loss; then, the same on every rank, mean loss, gradient norm and whether any was asked to end."""
    own = torch.stack([loss, gradient_norm, loss.new_tensor(float(is_asked_to_end))])
    total = ranks.sum(own.clone())
    own_loss, loss_sum, norm_sum, num_asked = torch.cat([own[:1], total]).tolist()  # waits for the device
    return own_loss, loss_sum / ranks.world_size, norm_sum / ranks.world_size, num_asked > 0


def _resume(name: str, state: TrainingState, checkpoints: Checkpoints | None, ranks: Ranks) -> int:
    start = checkpoints.resume(state) if checkpoints else 0
    if checkpoints and ranks.from_first(lambda: start) != start:
        raise SimipuError(
            f"{name}: rank {ranks.rank} sees other checkpoints than the first one in {checkpoints.place}; set "
            "SIMIPU_CHECKPOINTS to a folder that all machines share, or to s3://bucket/prefix."
        )
    return start


def _means(micro_batches: list[Values]) -> dict[str, float]:
    collected: dict[str, list[float]] = defaultdict(list)
    for values in micro_batches:
        for key, value in values.items():
            collected[key].append(value.item() if isinstance(value, Tensor) else value)
    return {key: sum(values) / len(values) for key, values in collected.items()}


def _lr(state: TrainingState) -> float:
    return float(state.schedulers[0].get_last_lr()[0])


def _progress(name: str, steps: int, start: int, ranks: Ranks) -> AbstractContextManager[Advance]:
    return progress(name, steps, start) if ranks.is_first else nullcontext(_no_progress)


def _no_progress(step: int = 1, note: str = "") -> None: ...


def _stopped_message(name: str, by: str, done: int, steps: int, checkpoints: Checkpoints | None) -> str:
    kept = f"saved in {checkpoints.place}: run it again to go on" if checkpoints else "and nothing was saved"
    return f"{name}: stopped by {by} after step {done} of {steps}, {kept}."
