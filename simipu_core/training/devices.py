"""Where and in which number format the networks run."""

import os
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from simipu_core.config import LoopConfig
from simipu_core.config.training import Precision
from simipu_core.errors import SimipuError

ValueT = TypeVar("ValueT")


def pick_device(name: str) -> torch.device:
    """The device of a name: `auto` (the GPU where there is one), `cpu`, `cuda` or a numbered one, such as `cuda:1`.

    Raises:
        SimipuError: another name, or a GPU is asked for and there is none of that number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise SimipuError(f"device is `{name}`; set it to auto, cpu, cuda or a numbered GPU such as cuda:1.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SimipuError(
            f"device is `{name}`, but {torch.cuda.device_count() or 'no'} GPU is visible here; set device to `auto` or "
            "`cpu`."
        )
    return device


def to_device(batch: ValueT, device: torch.device) -> ValueT:
    """The same batch (a dataclass of tensors, lists and dataclasses) on a device."""
    if device.type == "cpu":
        return batch
    moved: ValueT = _move(batch, device)
    return moved


def set_arithmetic(config: LoopConfig) -> None:
    """Let all that follows in this process compute as `precision` and `deterministic` say."""
    is_rounded = config.precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = is_rounded
    torch.backends.cudnn.allow_tf32 = is_rounded
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Automatic mixed precision around the networks; losses leave it by themselves and compute in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [_move(item, device) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _move(getattr(value, field.name), device) for field in fields(value)})
    return value
