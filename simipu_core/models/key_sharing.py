"""Keys beyond the batch of one rank: those of other ranks, and those of past batches."""

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather


def other_ranks(keys: Tensor) -> Tensor:
    """Keys (Q, D) of all other ranks, with gradients to them, where every rank gives its own (R, D), R differing.

    Every rank must call this equally often.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return keys[:0]
    return torch.cat([part for rank, part in enumerate(_gather(keys)) if rank != dist.get_rank()])


def _gather(keys: Tensor) -> list[Tensor]:
    lengths = [torch.zeros((), dtype=torch.int64, device=keys.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor(len(keys), device=keys.device))
    longest = max(int(length) for length in lengths)
    parts = all_gather(F.pad(keys, (0, 0, 0, longest - len(keys))))  # type: ignore[no-untyped-call]
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


class KeyQueue(nn.Module):
    """The newest keys of past batches, as further negatives (He et al. 2020, MoCo); the same on every rank.

    It starts with random unit vectors.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, channels), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.keys: Tensor
        self.position: Tensor

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replace the oldest keys by those (R, D) of this batch, from all ranks."""
        if dist.is_available() and dist.is_initialized():
            keys = torch.cat(_gather(keys))
        size = len(self.keys)
        keys = F.normalize(keys.float(), dim=1)[-size:]
        rows = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.keys[rows] = keys
        self.position.copy_((self.position + len(keys)) % size)
