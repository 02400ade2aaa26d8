"""Make a model ready for the machine that trains it."""

from collections.abc import Iterator

import torch
from torch import nn

from simipu_core.config import LoopConfig
from simipu_core.training.devices import set_arithmetic
from simipu_core.training.distributed import Ranks
from simipu_core.training.norms import synchronise_norms

_MOST_SIZES = 32  # of which a compiled module has a graph; it runs uncompiled on further ones


def prepare(model: nn.Module, config: LoopConfig, ranks: Ranks) -> None:
    """Move a model to its device and apply the settings of arithmetic, `sync_norm`, `channels_last` and `compile`.

    Names of parameters and buffers stay. Compiled are the model's modules (stages of the image encoder, point encoder,
    decoder, heads), each by itself: what joins them chooses rows by data, which a compiled graph cannot hold. Heads
    take any number of rows in one graph; all others get a graph for each size of their input, since graphs of
    convolutions for any size fail in their backward pass.
    """
    set_arithmetic(config)
    model.to(ranks.device)
    synchronise_norms(model, config.sync_norm, ranks)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        for name, module in _modules(model):
            takes_rows = name.endswith("_head")
            module.compile(dynamic=takes_rows, recompile_limit=_MOST_SIZES, isolate_recompiles=True)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        yield from child.items() if isinstance(child, nn.ModuleDict) else [(name, child)]
