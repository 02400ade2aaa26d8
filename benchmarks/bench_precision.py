"""How far each network's numbers in bf16 are from those in fp32, and which of them should not be in bf16.

Errors are root mean squares over that of the fp32 values. Pre-training is the improved preset at its reference sizes,
one sample of 192×608 pixels, with random weights and in training mode, forward alone; `mixed` lets bf16 count for the
point encoder too, the rest is as it is trained by default. The depth net is ResNet-50 with DenseDepth, one frame of
176×352 pixels, without pre-training.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench_steps import pair_batch
from benchmarks.measure import single_thread, store
from simipu_core.config import FinetuneConfig, ImageViewConfig, PointEncoderConfig, PretrainConfig
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.simipu import SimIPU
from simipu_core.training.devices import autocast

CPU = torch.device("cpu")
_FIXED_SIZE = ImageViewConfig(long_side=(608, 608), short_side=(360, 360))


def outputs(model: nn.Module, names: list[str], run: Callable[[], Tensor], *, bf16: bool) -> dict[str, Tensor]:
    """What modules of a model answer when they are first called, and what comes out in the end, as `result`."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.setdefault(name, (output[0] if isinstance(output, tuple) else output).detach().float().clone())

    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    with torch.no_grad(), autocast("bf16" if bf16 else "fp32", CPU):
        seen["result"] = run().detach().float()
    for hook in hooks:
        hook.remove()
    return seen


def errors(full: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative root mean square of each difference."""
    return {name: float((other[name] - values).norm() / values.norm()) for name, values in full.items()}


def pretraining_errors(samples: int) -> dict[str, dict[str, float]]:
    """Errors by branch, with the point encoder in fp32 and in bf16."""
    configs = {
        name: PretrainConfig(image=_FIXED_SIZE, point_encoder=PointEncoderConfig(mixed_precision=name == "mixed"))
        for name in ("default", "mixed")
    }
    batch = pair_batch(configs["default"], samples)
    full: dict[str, Tensor] = {}
    found = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        model = SimIPU(config)
        points = [f"point_encoder.levels.{number}" for number in range(len(config.point_encoder.levels))]
        images = [f"image_encoder.{stage}" for stage in ("layer1", "layer2", "layer3")]
        names = [*points, *images, "intra_head", "cross_point_head", "cross_image_head"]
        run = lambda model=model: model(batch).loss  # noqa: E731
        full = full or outputs(model, names, run, bf16=False)
        found[name] = errors(full, outputs(model, names, run, bf16=True))
    return found


def finetuning_errors() -> dict[str, float]:
    """Errors of the encoder's last map and of the depth."""
    torch.manual_seed(0)
    net = build_depth_net(FinetuneConfig(init="torch_default"), None).train()
    images = torch.randint(0, 256, (1, 3, 176, 352), dtype=torch.uint8)
    names = ["encoder.layer4", "decoder"]
    return errors(*(outputs(net, names, lambda: net(images), bf16=bf16) for bf16 in (False, True)))


def main(samples: int = 1) -> None:
    """Measure, print and store."""
    single_thread()
    store("precision", {"device": "cpu", "depth_net": finetuning_errors(), "pretrain": pretraining_errors(samples)})


if __name__ == "__main__":
    main()
