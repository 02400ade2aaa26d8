"""Training in several processes, started by torchrun: who they are and what they agree on."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simipu_core.errors import InterruptionError
from simipu_core.training.devices import pick_device

ValueT = TypeVar("ValueT")

_PATIENCE = timedelta(minutes=10)  # longest wait for another rank, which may be writing a checkpoint


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, seen from one of them."""

    rank: int
    """Number of this process, from 0."""
    world_size: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    @property
    def is_first(self) -> bool:
        """Whether this process logs, shows progress and writes results."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.world_size > 1:
            dist.barrier()

    def from_first(self, make: Callable[[], ValueT]) -> ValueT:
        """What `make` gives on the first rank, on every rank; the others do not call it, but wait."""
        box = [make() if self.is_first else None]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return cast(ValueT, box[0])

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """The model, so wrapped that all ranks begin with the first one's weights and average their gradients."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=False)


def without_wrapper(model: nn.Module) -> nn.Module:
    """The model itself, whether or not it is one of several ranks'."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model


def keep_gradients_local(model: nn.Module, is_wanted: bool) -> AbstractContextManager[None]:
    """Within this context gradients of several backward passes add up without being averaged over the ranks."""
    if is_wanted and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Take part in the training that torchrun has started, with gloo on CPUs and NCCL on GPUs.

    Without torchrun this is the only process.

    Args:
        device: the configuration's `device`; every process of a machine takes a GPU of its own.

    Raises:
        SimipuError: a GPU is asked for and there is none.
        InterruptionError: another process stopped.
    """
    place = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
        dist.init_process_group("nccl", timeout=_PATIENCE, device_id=place)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # whose errors have no type of their own
            raise
        raise InterruptionError(
            f"rank {dist.get_rank()}: another rank stopped or does not answer; what it printed says why."
        ) from error
    finally:
        dist.destroy_process_group()
