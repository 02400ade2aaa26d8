"""Make a model ready for the machine that trains it."""

from collections.abc import Iterator

import torch
from torch import nn

from simipu_core.config import LoopConfig
from simipu_core.training.distributed import Ranks
from simipu_core.training.norms import synchronise_norms


def prepare(model: nn.Module, config: LoopConfig, ranks: Ranks) -> None:
    """Move a model to its device and apply `sync_norm`, `channels_last` and `compile`, in place.

    Names of parameters and buffers stay. Compiled are the model's modules (stages of the image encoder, point encoder,
    decoder, heads), each by itself: what joins them chooses rows by data, which a compiled graph cannot hold.
    """
    model.to(ranks.device)
    synchronise_norms(model, config.sync_norm, ranks)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.compile:
        for module in _modules(model):
            module.compile()


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        yield from child.values() if isinstance(child, nn.ModuleDict) else [child]
