"""Checkpoints that a killed run goes on from, bit-exactly: safetensors and JSON, written atomically."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from simipu_core.artifacts import sha256_file, sha256_text
from simipu_core.config import Section

_KEEP = 2


@dataclass(frozen=True)
class TrainingState:
    """Everything that training changes. Sample order and augmentation are functions of the step alone."""

    model: nn.Module
    optimizers: list[Optimizer]
    schedulers: list[LRScheduler]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names."""
        result = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                result |= {f"optimizer/{number}/{index}/{slot}": tensor for slot, tensor in slots.items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}

    def values(self) -> dict[str, Any]:
        """All that is not a tensor, as JSON values."""
        return {
            "param_groups": [optimizer.state_dict()["param_groups"] for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Put back what :meth:`tensors` and :meth:`values` gave."""
        weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        self.model.load_state_dict(weights)
        for number, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer/{number}/"):
                    _, _, index, slot = name.split("/")
                    slots.setdefault(int(index), {})[slot] = tensor
            optimizer.load_state_dict({"state": slots, "param_groups": values["param_groups"][number]})
        for scheduler, saved in zip(self.schedulers, values["schedulers"], strict=True):
            scheduler.load_state_dict(saved)


class Checkpoints:
    """A rolling set of checkpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: TrainingState) -> None:
        """Write the state after `step` steps; older checkpoints beyond the last two are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file(state.tensors(), partial / "state.safetensors")
        values = state.values() | {"sha256": sha256_file(partial / "state.safetensors")}
        (partial / "state.json").write_text(json.dumps(values), encoding="utf-8")
        final = self.folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        for old in self._saved()[_KEEP:]:
            shutil.rmtree(old)

    def resume(self, state: TrainingState) -> int:
        """Restore the newest whole checkpoint; returns its step, 0 where there is none."""
        for saved in self._saved():
            try:
                values = json.loads((saved / "state.json").read_text(encoding="utf-8"))
                if values["sha256"] != sha256_file(saved / "state.safetensors"):
                    continue
                tensors = load_file(saved / "state.safetensors")
            except (OSError, ValueError, KeyError, SafetensorError):
                continue
            state.restore(tensors, values)
            return int(saved.name.removeprefix("step-"))
        return 0

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def checkpoints_for(root: Path | None, stage: str, config: Section, inputs: Mapping[str, str]) -> Checkpoints | None:
    """The checkpoint folder of a stage under `root`, named by everything that decides its result."""
    if root is None:
        return None
    key = sha256_text(json.dumps([config.model_dump(mode="json"), dict(inputs)], sort_keys=True))
    return Checkpoints(root / f"{stage}-{key[:16]}")
