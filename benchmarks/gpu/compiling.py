"""A model made ready as training does, with a PyTorch that may be older than the one the project is built on."""

from typing import Any

import torch
from torch import nn

from simipu_core.training import networks
from simipu_core.training.distributed import Ranks


def prepared(model: nn.Module, config: Any, device: torch.device) -> nn.Module:
    """On its device, laid out and compiled as the settings say; sizes do not change here, so graphs need no limit."""
    networks.prepare(model, config.model_copy(update={"compile": False}), Ranks(0, 1, device))
    if config.compile:
        torch._dynamo.config.recompile_limit = 64
        for name, module in networks._modules(model):
            module.compile(dynamic=name.endswith("_head"))
    return model
