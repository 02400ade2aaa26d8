"""FLOPs and memory of one training step, counted by running it on tensors that have shapes but no values."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from simipu_core.config import FinetuneConfig, LoopConfig, PretrainConfig
from simipu_core.config.section import Size
from simipu_core.data.batches import Level, PairBatch, PointView
from simipu_core.losses.sig_loss import at_size_of, sig_loss
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.simipu import pretraining_model
from simipu_core.training.checkpoint import TrainingState
from simipu_core.training.devices import autocast
from simipu_core.training.optimizers import finetuning_optimizer, pretraining_optimizers

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_RANDOM = "kaiming_zero_gamma"  # weights that need no file; which they are costs the same


@dataclass(frozen=True)
class StepCost:
    """What one micro-batch takes on its device."""

    parameters: int
    """All of the model, trained or not."""
    flops: int
    """Forward and backward: twice the multiplications of convolutions and matrix products."""
    mixed_flops: int
    """Those of them in bf16."""
    activation_bytes: int
    """Held between forward and backward pass, each storage once, parameters not."""
    weight_bytes: int
    """Parameters and statistics."""
    gradient_bytes: int
    optimizer_bytes: int
    checkpoint_bytes: int
    result_bytes: int
    """The weights file that the stage hands on."""

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and optimiser."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def pretraining_cost(config: PretrainConfig, samples: int, image: Size) -> StepCost:
    """Cost of a pre-training step in which every pair counts: none is invisible or unmatched.

    Picks by learnt features (`sampling: feature_halves`) and the matching after them are left out.

    Args:
        config: the whole stage.
        samples: pairs of one micro-batch of one rank.
        image: padded height and width, pixels.
    """
    config = config.model_copy(update={"image_encoder": config.image_encoder.model_copy(update={"init": _RANDOM})})
    with _without_values(lambda: pretraining_model(config)) as model:
        state = TrainingState(model, *pretraining_optimizers(model, config, 1))
        batch = _pair_batch(config, samples, image)
        return _cost(state, lambda: model(batch).loss, config, model.image_encoder)


def finetuning_cost(config: FinetuneConfig, samples: int, image: Size, depth: Size) -> StepCost:
    """Cost of a fine-tuning step in which every pixel is measured.

    Args:
        config: the whole stage.
        samples: frames of one micro-batch of one rank.
        image: height and width that the net is shown, pixels.
        depth: height and width of the ground truth.
    """
    config = config.model_copy(update={"init": _RANDOM})
    with _without_values(lambda: build_depth_net(config, None)) as net:
        optimizer, schedule = finetuning_optimizer(net, config, 100)
        images, truth = torch.ones(samples, 3, *image, dtype=torch.uint8), torch.ones(samples, 1, *depth)

        def compute() -> Tensor:
            return sig_loss(at_size_of(truth, net(images)), truth, config.sig_lambda)

        return _cost(TrainingState(net, [optimizer], [schedule]), compute, config, net)


@contextmanager
def _without_values(build: Callable[[], ModuleT]) -> Iterator[ModuleT]:
    """A model without values, and tensors made inside have none either.

    They say that they are on the CPU, where automatic mixed precision knows them. The model is built on `meta`, since
    one that is already of this mode cannot be copied.
    """
    with torch.device("meta"):
        model = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield model.to_empty(device="cpu")


def _cost(state: TrainingState, compute: Callable[[], Tensor], config: LoopConfig, result: nn.Module) -> StepCost:
    """Run a step: forward, backward, optimisers."""
    model = state.model
    weights = [*model.parameters(), *model.buffers()]
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with _Flops() as flops, _EverythingCounts():  # type: ignore[no-untyped-call]
        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(config.precision, torch.device("cpu")):
            loss = compute()
        loss.backward()  # type: ignore[no-untyped-call]
    for weight in weights:
        saved.pop(weight.untyped_storage()._cdata, None)
    for optimizer in state.optimizers:
        optimizer.step()
    slots = [value for optimizer in state.optimizers for slot in optimizer.state.values() for value in slot.values()]
    return StepCost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops.total,
        mixed_flops=flops.mixed,
        activation_bytes=sum(storage.nbytes() for storage in saved.values()),
        weight_bytes=_bytes(weights),
        gradient_bytes=_bytes(p.grad for p in model.parameters() if p.grad is not None),
        optimizer_bytes=_bytes(slots),
        checkpoint_bytes=_bytes(state.model.state_dict().values()) + _bytes(slots),
        result_bytes=_bytes(result.state_dict().values()),
    )


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs as PyTorch's own counter does, and apart from the others those in bf16."""

    total = mixed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            flops = int(count(*args, **(kwargs or {}), out_val=result))
            self.total += flops
            self.mixed += flops * (args[0].dtype == torch.bfloat16)
        return result


class _EverythingCounts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes boolean tensors, which have no values here, as true throughout: all rows are picked, all are summed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.sum.default and args[0].dtype == torch.bool:
            return torch.tensor(args[0].numel())
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            (mask,) = args[1]
            rows = torch.empty(mask.numel(), dtype=torch.int64)
            return func(args[0].flatten(0, mask.dim() - 1), [rows])
        return func(*args, **(kwargs or {}))


def _pair_batch(config: PretrainConfig, samples: int, image: Size) -> PairBatch:
    points, encoder = config.points.num_points, config.point_encoder

    def view() -> PointView:
        levels = [
            Level(
                torch.empty(samples, level.num_points, dtype=torch.int64),
                [torch.empty(samples, level.num_points, num, dtype=torch.int32) for num in level.num_neighbours],
            )
            for level in encoder.levels
        ]
        return PointView(torch.empty(samples, points, 3), torch.empty(samples, points, encoder.num_features), levels)

    return PairBatch(
        images=torch.empty(samples, 3, *image, dtype=torch.uint8),
        image_sizes=torch.empty(samples, 2, dtype=torch.int64),
        depth=torch.ones(samples, 1, *image) if config.has_decoder else None,
        original=view(),
        augmented=view(),
        augmented_location=torch.empty(samples, points, 3),
        match=torch.empty(samples, encoder.levels[-1].num_points, dtype=torch.int64),
        pixels=torch.empty(samples, points, 2),
        is_visible=torch.empty(samples, points, dtype=torch.bool),
        sample_ids=[],
    )


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
