"""Checkpoints that a killed run goes on from, bit-exactly: safetensors and JSON, in a folder or in S3."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from simipu_core.artifacts import sha256_text
from simipu_core.config import LoopConfig
from simipu_core.errors import SimipuError
from simipu_core.training.distributed import without_wrapper
from simipu_core.training.stores import Store, open_store

_VALUES = re.compile(r"step-(\d{8})\.json")
_NO_PART_OF_RESULT = {"device", "workers", "checkpoint_every", "keep_checkpoints", "log_every", "divergence_factor"}


@dataclass(frozen=True)
class TrainingState:
    """Everything that training changes. Sample order and augmentation are functions of the step alone."""

    model: nn.Module
    """What computes: the model, or its wrapper that averages gradients over ranks."""
    optimizers: list[Optimizer]
    schedulers: list[LRScheduler]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, on the CPU."""
        result = {"random/cpu": torch.get_rng_state()}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            result["random/cuda"] = torch.cuda.get_rng_state()
        result |= {f"model/{name}": tensor for name, tensor in without_wrapper(self.model).state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                result |= {
                    f"optimizer/{number}/{index}/{slot}": tensor
                    for slot, tensor in slots.items()
                    if isinstance(tensor, Tensor)
                }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}

    def values(self) -> dict[str, Any]:
        """All that is not a tensor, as JSON values."""
        return {
            "param_groups": [optimizer.state_dict()["param_groups"] for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Put back what :meth:`tensors` and :meth:`values` gave."""
        without_wrapper(self.model).load_state_dict(_below("model", tensors))
        for number, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(f"optimizer/{number}", tensors).items():
                index, slot = name.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
            optimizer.load_state_dict({"state": slots, "param_groups": values["param_groups"][number]})
            _lay_out_as_parameters(optimizer)
        for scheduler, saved in zip(self.schedulers, values["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.set_rng_state(tensors["random/cuda"])


class Checkpoints:
    """A rolling set of checkpoints in one store.

    A checkpoint is ``step-N.safetensors`` and then ``step-N.json``, which holds one sha256 over both: without the
    second, or where they do not fit, it does not count.
    """

    def __init__(self, place: str | Path, keep: int = 2) -> None:
        self.place = str(place)
        self._store: Store = open_store(place)
        self._keep = keep

    def save(self, step: int, state: TrainingState) -> None:
        """Write the state after `step` steps; older checkpoints beyond the newest `keep` are removed.

        Raises:
            SimipuError: the store cannot be written.
        """
        data = save(state.tensors())
        values = json.loads(json.dumps(state.values()))  # as they will be read
        self._store.write(_tensors_name(step), data)
        text = json.dumps({"sha256": _digest(data, values), "values": values})
        self._store.write(_values_name(step), text.encode())
        kept = [saved for saved in self.steps() if saved <= step][: self._keep]
        self._store.keep({name(saved) for saved in kept for name in (_tensors_name, _values_name)})

    def resume(self, state: TrainingState) -> int:
        """Restore the newest whole checkpoint; returns its step, 0 where there is none.

        Raises:
            SimipuError: the store cannot be read, or the checkpoint is not of this code's model.
        """
        for step in self.steps():
            found = self._read(step)
            if found is None:
                print(f"warning: {self.place}: the checkpoint of step {step} is damaged, left out", file=sys.stderr)
                continue
            try:
                state.restore(*found)
            except (RuntimeError, KeyError, ValueError, IndexError):
                raise SimipuError(
                    f"{self.place}: step {step} was written by another version of this code; remove it to begin anew."
                ) from None
            return step
        return 0

    def _read(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and values of a step, as they were written; None where they are not."""
        data, text = self._store.read(_tensors_name(step)), self._store.read(_values_name(step))
        try:
            saved = json.loads(text or b"")
            if data is None or saved["sha256"] != _digest(data, saved["values"]):
                return None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return load(data), saved["values"]

    def held(self) -> AbstractContextManager[None]:
        """Keep equal trainings, which would use the same checkpoints, out of a folder while the block runs.

        Raises:
            InterruptionError: there is one.
        """
        return self._store.held()

    def clear(self) -> None:
        """Remove all checkpoints."""
        self._store.keep(set())

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, the newest first."""
        found = [match for name in self._store.names() if (match := _VALUES.fullmatch(name))]
        return sorted((int(match[1]) for match in found), reverse=True)


def checkpoints_for(
    root: str | Path | None, stage: str, config: LoopConfig, inputs: Mapping[str, str]
) -> Checkpoints | None:
    """The checkpoints of a stage under `root`, named by everything that decides its result.

    Args:
        root: a folder or ``s3://bucket/prefix``; None keeps no checkpoints.
        stage: name of the stage.
        config: its section; settings that leave the result as it is, such as `workers`, may differ on restart.
        inputs: digests of its input artifacts, by role.
    """
    if root is None:
        return None
    decisive = config.model_dump(mode="json", exclude=_NO_PART_OF_RESULT)
    key = sha256_text(json.dumps([decisive, dict(inputs)], sort_keys=True))
    name = f"{stage}-{key[:16]}"
    return Checkpoints(f"{root}/{name}", config.keep_checkpoints)


def _digest(tensors: bytes, values: dict[str, Any]) -> str:
    """The sha256 over both pieces of a checkpoint."""
    digest = hashlib.sha256(tensors)
    digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()


def _tensors_name(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def _values_name(step: int) -> str:
    return f"step-{step:08d}.json"


def _below(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{owner}/"): t for name, t in tensors.items() if name.startswith(f"{owner}/")}


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give the optimiser's slots their parameters' memory order, which fused steps take for granted."""
    for parameter, slots in optimizer.state.items():
        for slot, tensor in slots.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter).copy_(tensor)
