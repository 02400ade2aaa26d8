"""Whether a step on the card is the CPU's: loss and gradients of both stages, in every setting, and resuming."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
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
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
    "fp32 compile": {"compile": True},
    "bf16 channels_last compile": {"precision": "bf16", "channels_last": True, "compile": True},
}
LOSS_BOUNDS = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}
"""Largest relative errors of the loss against the CPU's in fp32."""
_FULL_GRADIENT, _LIKE_THE_CPU = 5e-2, 1.5
"""Largest relative error of the gradient, all of it as one vector: in fp32; otherwise as a multiple of the error that
the CPU makes in bf16. Two samples and random weights make gradients so sensitive that bf16's are far from fp32's
wherever they are computed: an absolute bound would say nothing."""
_LAST_UNCOMPILED = "bf16 channels_last"
_RESUMED_AT, _STEPS = 3, 6


@dataclass(frozen=True)
class Known:
    """A stage's step on the CPU."""

    stage: Stage
    model: nn.Module
    batch: Any
    reference: Mapping[str, Tensor]
    """Loss and gradient in fp32."""
    noise: Mapping[str, float]
    """Errors of bf16."""


def run(part: Part) -> None:
    """Every setting of each stage; the same training in one go, once more, and resumed; what is compiled comes last."""
    known = [on_cpu(stage, part.sizes.micro) for stage in stages(part.sizes, part.data)]
    for each in known:
        part.keep(f"{each.stage.name} bf16 on the CPU", each.noise)
    settings = part.sizes.settings(SETTINGS)
    for name in settings:
        for each in known:
            part.measure(f"{each.stage.name} {name}", partial(checked, each, settings[name], part.device))
        if name == _LAST_UNCOMPILED:
            for each, kind in product(known, ("", " deterministic")):
                task = partial(resumed, each.stage, each.batch, part.device, bool(kind))
                part.measure(f"{each.stage.name} resumed{kind}", task)


def on_cpu(stage: Stage, samples: int) -> Known:
    """What the card is held against."""
    torch.manual_seed(0)
    model, batch, cpu = stage.build().train(), stage.batch(samples), torch.device("cpu")
    reference, in_bf16 = (step(stage, copy.deepcopy(model), batch, cpu, kind) for kind in ("fp32", "bf16"))
    return Known(stage, model, batch, reference, errors(in_bf16, reference))


def checked(known: Known, settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """One setting: errors, bounds, and whether they hold."""
    config = known.stage.configured(**settings)
    network = prepared(copy.deepcopy(known.model), config, device)
    found = errors(step(known.stage, network, known.batch, device, config.precision), known.reference)
    gradient_bound = _FULL_GRADIENT if config.precision == "fp32" else _LIKE_THE_CPU * known.noise["gradient"]
    bounds = {"loss": LOSS_BOUNDS[config.precision], "gradient": gradient_bound}
    return {**found, "bounds": bounds, "holds": all(found[key] <= bound for key, bound in bounds.items())}


def step(stage: Stage, model: nn.Module, batch: Any, device: torch.device, precision: Any) -> dict[str, Tensor]:
    """Loss and gradient of one step, on the CPU."""
    with autocast(precision, device):
        loss = stage.loss(model, to_device(batch, device))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.detach().double().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return {"loss": loss.detach().double().cpu(), "gradient": torch.cat(gradients)}


def errors(found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative errors of both."""
    return {key: float((found[key] - reference[key]).norm() / reference[key].norm()) for key in reference}


def resumed(stage: Stage, batch: Any, device: torch.device, is_deterministic: bool) -> dict[str, Any]:
    """Largest differences of the weights between trainings that are the same, bf16."""
    config = stage.configured(
        precision="bf16", channels_last=True, checkpoint_every=_RESUMED_AT, deterministic=is_deterministic
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
