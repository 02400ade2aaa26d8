"""A small regression problem for the loop."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from simipu_core.config import LoopConfig
from simipu_core.tracking.run import SilentRun
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.distributed import Ranks
from simipu_core.training.loop import Values, fit

ALONE = Ranks(0, 1, torch.device("cpu"))
CONFIG = LoopConfig(epochs=1, batch_size=2, checkpoint_every=3, log_every=2)


@dataclass(frozen=True)
class Numbers:
    values: Tensor
    sample_ids: list[str]


class Recorder(SilentRun):
    def __init__(self) -> None:
        self.steps: dict[int | None, Mapping[str, float]] = {}
        self.params: dict[str, Any] = {}

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps[step] = metrics


def load(steps: range, num: int = 1) -> Generator[Numbers, None, None]:
    """Eight rows a step, in so many equal micro-batches."""
    for step in steps:
        rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        for number, micro_batch in enumerate(rows.chunk(num)):
            yield Numbers(micro_batch, [f"s{step}" if num == 1 else f"s{step}-{number}"])


def new_state(norm: bool = True) -> TrainingState:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.ReLU(), nn.Linear(5, 1)]
    model = nn.Sequential(*layers)
    first, last = AdamW(model[0].parameters(), 0.1, fused=True), SGD(model[1:].parameters(), 0.1, momentum=0.9)
    return TrainingState(
        model, [first, last], [OneCycleLR(first, 0.1, total_steps=20, cycle_momentum=False), StepLR(last, 4, 0.5)]
    )


def layers(state: TrainingState) -> nn.Sequential:
    """The toy's own four layers, without what a test adds to the model."""
    assert isinstance(state.model, nn.Sequential)
    return state.model[:4]


def squared_error(state: TrainingState) -> Callable[[Numbers], tuple[Tensor, Callable[[], Values]]]:
    def compute(batch: Numbers) -> tuple[Tensor, Callable[[], Values]]:
        error = state.model(batch.values) - batch.values.sum(dim=1, keepdim=True)
        return error.square().mean(), lambda: {"largest": error.abs().max()}

    return compute


def train(state: TrainingState, compute: Any = None, steps: int = 20, **options: Any) -> Recorder:
    """Run the loop alone; options as of `fit`."""
    recorder = Recorder()
    settings: dict[str, Any] = {"load": load, "config": CONFIG, "ranks": ALONE, "run": recorder} | options
    fit("test", state, compute=compute or squared_error(state), steps=steps, **settings)
    return recorder


def assert_equal_states(one: TrainingState, other: TrainingState) -> None:
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
    assert json.dumps(one.values()) == json.dumps(other.values())
