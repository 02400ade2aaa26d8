"""What the parts share: how long they may take, where their findings go, sizes, data, and the two training stages."""

import contextlib
import io
import json
import platform
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import rounded
from benchmarks.world import pack, render
from simipu_core.config import (
    DepthAugmentConfig,
    FinetuneConfig,
    ImageEncoderConfig,
    ImageViewConfig,
    LoopConfig,
    PairConfig,
    PointEncoderConfig,
    PointViewConfig,
    PretrainConfig,
    SetAbstractionConfig,
)
from simipu_core.config.section import Size
from simipu_core.data.depth_views import DepthViews
from simipu_core.data.shards import Shards
from simipu_core.data.views import PairViews
from simipu_core.files import write_file
from simipu_core.losses.sig_loss import at_size_of, sig_loss
from simipu_core.models.depth_net import build_depth_net
from simipu_core.models.simipu import pretraining_model
from simipu_core.planning import GPUS
from simipu_core.planning.cost import StepCost, finetuning_cost, pretraining_cost
from simipu_core.tracking.run import SilentRun
from simipu_core.training.checkpoint import Checkpoints, TrainingState
from simipu_core.training.distributed import Ranks
from simipu_core.training.loop import fit
from simipu_core.training.optimizers import finetuning_optimizer, pretraining_optimizers


@dataclass
class Part:
    """One part under way."""

    name: str
    device: torch.device
    sizes: "Sizes"
    data: "Data"
    out: Path
    seconds: float
    begun: float = field(default_factory=time.monotonic)
    found: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def measure(self, name: str, task: Callable[[], Any], seconds: float = 0.0) -> None:
        """Keep what a task finds, if there is time for the seconds that it is taken to need on a GPU.

        One that fails is noted, and the others go on.
        """
        if not self.has_time(name, seconds if self.device.type == "cuda" else 0):
            return
        try:
            self.keep(name, task())
        except Exception as error:
            traceback.print_exc()
            self.failed.append(name)
            self.keep(name, {"error": f"{type(error).__name__}: {error}"[:500]})

    def has_time(self, what: str, seconds: float = 0.0) -> bool:
        """Whether there is time for something that takes so many seconds; what there is none for is noted."""
        if time.monotonic() - self.begun + seconds < self.seconds:
            return True
        self.left_out.append(what)
        self._store()
        return False

    def keep(self, name: str, value: Any) -> None:
        """Add a finding, and write all of them."""
        self.found[name] = value
        self._store()
        print(f"{self.name} · {name}: {json.dumps(rounded(value))}", flush=True)

    def _store(self) -> None:
        result = {
            "device": device_name(self.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "sizes": self.sizes.name,
            "seconds": time.monotonic() - self.begun,
            "left_out": self.left_out,
            "found": self.found,
        }
        text = json.dumps(rounded(result), indent=2, ensure_ascii=False)
        write_file(self.out / f"gpu_{self.name}.json", (text + "\n").encode())


def peak(device: torch.device) -> float | None:
    """Of a known card in bf16, FLOPs a second."""
    name = device_name(device).lower()
    return next((1e12 * tflops for gpu, (tflops, _) in reversed(GPUS.items()) if gpu in name), None)


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class Sizes:
    """What the networks are shown."""

    name: str
    frame: Size
    """Height and width of the rendered frames, pixels."""
    points: int
    """Of a rendered scan."""
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    micro: int
    """Samples of the batches that the CPU computes, too."""
    pretrain_batches: tuple[int, ...]
    finetune_batches: tuple[int, ...]
    steps: int
    """Timed steps of each setting."""
    loaded_batches: int
    compiles: bool
    """Whether settings with `compile` are run."""

    def settings(self, all_of_them: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Those that are run."""
        return {name: each for name, each in all_of_them.items() if self.compiles or not each.get("compile")}


def full() -> Sizes:
    """The published encoder and points; 384 × 1280 and 352 × 704 pixels."""
    return Sizes(
        name="full",
        frame=(375, 1242),
        points=120_000,
        pretrain=PretrainConfig(image=ImageViewConfig(long_side=(1280, 1280), short_side=(384, 384))),
        finetune=FinetuneConfig(init="torch_default"),
        micro=2,
        pretrain_batches=(32, 16, 8),
        finetune_batches=(32, 16, 64),
        steps=12,
        loaded_batches=24,
        compiles=True,
    )


def tiny() -> Sizes:
    """Seconds on two cores."""
    level = partial(SetAbstractionConfig, radii=(2.0, 5.0), num_neighbours=(4, 8), out_channels=16)
    points = PointEncoderConfig(
        levels=(
            level(num_points=64, mlps=((8, 16), (8, 16))),
            level(num_points=32, mlps=((16, 16), (16, 16))),
        )
    )
    encoder = ImageEncoderConfig(name="resnet18")
    return Sizes(
        name="tiny",
        frame=(96, 320),
        points=6_000,
        pretrain=PretrainConfig(
            image=ImageViewConfig(long_side=(160, 160), short_side=(48, 48)),
            points=PointViewConfig(num_points=256),
            point_encoder=points,
            image_encoder=encoder,
        ),
        finetune=FinetuneConfig(
            init="torch_default",
            encoder_name="resnet18",
            decoder_channels=(32, 16, 16, 8),
            augment=DepthAugmentConfig(fixed_crop="none", crop=(64, 160)),
        ),
        micro=2,
        pretrain_batches=(4, 2),
        finetune_batches=(4,),
        steps=3,
        loaded_batches=3,
        compiles=False,  # minutes on a CPU
    )


@dataclass(frozen=True)
class Data:
    """Shards of a few rendered frames."""

    pairs: Path
    depth: Path

    @classmethod
    def make(cls, sizes: Sizes, folder: Path, num_frames: int = 16) -> "Data":
        """Render and pack them, unless the folder holds them."""
        if not (folder / "depth").is_dir():
            with contextlib.redirect_stdout(io.StringIO()):
                render(folder / "raw", num_frames, sizes.frame, sizes.points)
                pack(folder / "raw", folder, PairConfig(image_encoding="jpeg"))
        return cls(folder / "pairs", folder / "depth")


@dataclass(frozen=True)
class Stage:
    """A training stage, of a few rows."""

    name: str
    config: PretrainConfig | FinetuneConfig
    batch_sizes: tuple[int, ...]
    shards: Shards[Any]
    views: Callable[[Sequence[Any], Sequence[np.random.Generator]], Any]
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]
    optimise: Callable[[nn.Module], TrainingState]
    cost: Callable[[Any, int], StepCost]
    """Of a section and the samples of a batch."""

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether settings are of this stage."""
        return "mixed_points" not in settings or isinstance(self.config, PretrainConfig)

    def configured(self, **settings: Any) -> Any:
        """Its section with settings; `mixed_points` is the point encoder's `mixed_precision`."""
        if settings.pop("mixed_points", False):
            assert isinstance(self.config, PretrainConfig)
            settings["point_encoder"] = self.config.point_encoder.model_copy(update={"mixed_precision": True})
        return self.config.model_copy(update=settings)

    def batch(self, samples: int) -> Any:
        """A batch of so many samples; the rows count several times."""
        rows = [self.shards.row(index % len(self.shards)) for index in range(samples)]
        return self.views(rows, [np.random.default_rng(index) for index in range(samples)])

    def train(
        self,
        model: nn.Module,
        config: LoopConfig,
        load: Callable[[range], Generator[Any, None, None]],
        steps: int,
        device: torch.device,
        store: Checkpoints | None = None,
    ) -> list[float]:
        """Train a model by the project's own loop; when each step ended, in seconds of a clock."""
        ends: list[float] = []

        def after_step(_done: int) -> dict[str, float]:
            ends.append(time.perf_counter())
            return {}

        with contextlib.redirect_stdout(io.StringIO()):
            fit(
                self.name,
                self.optimise(model),
                load,
                lambda batch: (self.loss(model, batch), dict),
                config,
                steps=steps,
                run=SilentRun(),
                ranks=Ranks(0, 1, device),
                checkpoints=store,
                after_step=after_step,
            )
        return ends


def stages(sizes: Sizes, data: Data) -> list[Stage]:
    """Both of them."""
    return [_pretraining(sizes, data), _finetuning(sizes, data)]


def _pretraining(sizes: Sizes, data: Data) -> Stage:
    config = sizes.pretrain

    def optimise(model: Any) -> TrainingState:
        return TrainingState(model, *pretraining_optimizers(model, config, 1000))

    def cost(config: PretrainConfig, samples: int) -> StepCost:
        height, width = stage.batch(1).images.shape[-2:]
        return pretraining_cost(config, samples, (height, width))

    stage = Stage(
        name="pretrain",
        config=config,
        batch_sizes=sizes.pretrain_batches,
        shards=Shards(data.pairs, "pairs"),
        views=PairViews(config),
        build=lambda: pretraining_model(config),
        loss=lambda model, batch: model(batch).loss,
        optimise=optimise,
        cost=cost,
    )
    return stage


def _finetuning(sizes: Sizes, data: Data) -> Stage:
    config = sizes.finetune

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return sig_loss(at_size_of(batch.depth, net(batch.images)), batch.depth, config.sig_lambda)

    def optimise(net: Any) -> TrainingState:
        optimizer, schedule = finetuning_optimizer(net, config, 1000)
        return TrainingState(net, [optimizer], [schedule])

    def cost(config: FinetuneConfig, samples: int) -> StepCost:
        shown = stage.batch(1)
        (h, w), (height, width) = shown.images.shape[-2:], shown.depth.shape[-2:]
        return finetuning_cost(config, samples, (h, w), (height, width))

    stage = Stage(
        name="finetune",
        config=config,
        batch_sizes=sizes.finetune_batches,
        shards=Shards(data.depth, "depth", "train"),
        views=DepthViews(config.augment, config.input_scale),
        build=lambda: build_depth_net(config, None),
        loss=loss,
        optimise=optimise,
        cost=cost,
    )
    return stage


def best(found: Mapping[str, Any]) -> float | None:
    """The most samples a second among the findings of a stage's throughput."""
    rates = [entry["samples_per_second"] for entry in found.values() if "samples_per_second" in entry]
    return max(rates, default=None)
