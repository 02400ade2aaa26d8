"""Whether a step on the card is the CPU's: loss and gradients of both stages, in every setting, and resuming."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.agenda import Part, Stage, stages
from benchmarks.gpu.compiling import prepared
from benchmarks.measure import again_and_again
from simipu_core.training.checkpoint import Checkpoints
from simipu_core.training.devices import autocast, to_device

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
    "bf16 channels_last compile": {"precision": "bf16", "channels_last": True, "compile": True},
    "fp32 compile": {"compile": True},
    "fp32 TF32": {},
}
"""By what they are called; convolutions may use TF32 in the last alone, as they do by PyTorch's default."""
BOUNDS = {"fp32": (1e-4, 2e-2), "TF32": (5e-3, 0.2), "bf16": (3e-2, 0.5)}
"""Largest relative errors of the loss and of the gradient, all of it as one vector, against fp32 on the CPU, two
samples, random weights. BatchNorm over so few makes gradients of random networks sensitive: on the CPU, bf16 differs
from fp32 by 0.3 to 0.4 at tiny sizes."""
_RESUMED_AT, _STEPS = 3, 6


def run(part: Part) -> None:
    """Every setting of each stage; then the same training in one go, once more, and resumed."""
    for stage in stages(part.sizes, part.data):
        torch.manual_seed(0)
        model = stage.build().train()
        batch = stage.batch(part.sizes.micro)
        reference = step(stage, copy.deepcopy(model), batch, torch.device("cpu"), "fp32")
        for name, changes in part.sizes.settings(SETTINGS).items():
            if not part.has_time(f"{stage.name} {name}"):
                continue
            config = stage.config.model_copy(update=changes)
            torch.backends.cudnn.allow_tf32 = name.endswith("TF32")
            network = prepared(copy.deepcopy(model), config, part.device)
            found = step(stage, network, batch, part.device, config.precision)
            part.keep(f"{stage.name} {name}", compared(found, reference, name))
        torch.backends.cudnn.allow_tf32 = True
        if part.has_time(f"{stage.name} resumed"):
            part.keep(f"{stage.name} resumed", resumed(stage, batch, part.device))


def step(stage: Stage, model: nn.Module, batch: Any, device: torch.device, precision: Any) -> dict[str, Tensor]:
    """Loss and gradient of one step, on the CPU."""
    with autocast(precision, device):
        loss = stage.loss(model, to_device(batch, device))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.detach().double().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return {"loss": loss.detach().double().cpu(), "gradient": torch.cat(gradients)}


def compared(found: Mapping[str, Tensor], reference: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Relative errors, their bounds, and whether they hold."""
    bounds = next(bound for kind, bound in reversed(BOUNDS.items()) if kind in name)
    errors = {key: float((found[key] - reference[key]).norm() / reference[key].norm()) for key in reference}
    holds = all(error <= bound for error, bound in zip(errors.values(), bounds, strict=True))
    return {**errors, "bounds": list(bounds), "holds": holds}


def resumed(stage: Stage, batch: Any, device: torch.device) -> dict[str, Any]:
    """Largest differences of the weights between trainings that should be equal, bf16."""
    config = stage.config.model_copy(
        update={"precision": "bf16", "channels_last": True, "checkpoint_every": _RESUMED_AT}
    )
    with tempfile.TemporaryDirectory() as folder:
        whole = _trained(stage, batch, config, device, None, _STEPS)
        again = _trained(stage, batch, config, device, None, _STEPS)
        store = Checkpoints(Path(folder))
        _trained(stage, batch, config, device, store, _RESUMED_AT + 1)  # saves at the third step
        later = _trained(stage, batch, config, device, store, _STEPS)
    return {"repeated": _difference(whole, again), "resumed": _difference(whole, later)}


def _trained(
    stage: Stage, batch: Any, config: Any, device: torch.device, store: Checkpoints | None, steps: int
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = prepared(stage.build(), config, device)
    stage.train(model, config, again_and_again(batch), steps, device, store)
    return {name: tensor.detach().double().cpu() for name, tensor in model.state_dict().items()}


def _difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())
