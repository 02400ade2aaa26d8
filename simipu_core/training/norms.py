"""BatchNorm over the samples of all ranks."""

from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from simipu_core.training.distributed import Ranks


def synchronise_norms(model: nn.Module, which: Literal["none", "image_encoder", "all"], ranks: Ranks) -> None:
    """Let BatchNorm layers take their statistics over all ranks; parameters and their names stay.

    Layers left out take those of their own rank's samples; what they remember for inference is then the first rank's.

    Args:
        model: changed in place; left as it is with a single rank.
        which: no layer, those of the image encoder (submodule `image_encoder` or `encoder`), or all.
        ranks: on GPUs PyTorch's layer is used, which needs one; on CPUs :class:`RankBatchNorm`.
    """
    if ranks.world_size == 1:
        return
    for name, child in model.named_children():
        if which == "all" or (which == "image_encoder" and name in ("image_encoder", "encoder")):
            setattr(model, name, _convert(child, ranks.device))


def _convert(module: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
    if isinstance(module, _BatchNorm):
        layer = RankBatchNorm(module.num_features, module.eps, module.momentum)
        layer.weight, layer.bias = module.weight, module.bias
        layer.running_mean, layer.running_var = module.running_mean, module.running_var
        layer.num_batches_tracked = module.num_batches_tracked
        return layer
    for name, child in module.named_children():
        setattr(module, name, _convert(child, device))
    return module


class RankBatchNorm(_BatchNorm):
    """BatchNorm (Ioffe & Szegedy 2015) whose batch is that of all ranks together."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (the parent's name)
        if input.dim() < 2:
            raise ValueError(f"needs (B, C, …), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, …) → the same, normalised per channel; ranks may hold different numbers of rows."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        values = input.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = _sum_over_ranks(torch.cat([values.sum(dims), count]))
        count, mean = total[-1], total[:-1] / total[-1]
        centred = values - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean, self.momentum or 0.0)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), self.momentum or 0.0)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


class _SumOverRanks(Function):
    """All-reduce by summation, whose gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        result = values.clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return _sum_over_ranks(gradient)


def _sum_over_ranks(values: Tensor) -> Tensor:
    return cast(Tensor, _SumOverRanks.apply(values))
