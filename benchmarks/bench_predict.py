"""How near `simipu predict` comes to the bare network's frames a second, and how long its first picture takes.

KITTI's size, JPEG in, colour and 16-bit PNG out. The network is a ResNet-18 with a quarter of the published decoder and
random weights, a fast one, beside which reading and writing weigh more than beside the published; bare, it is shown
batches that lie ready in memory, and its answers are dropped. Both take turns in one process. The first picture is a
process of its own, imports and reading of the weights included; the best of its rounds counts, since a busy machine
only adds, and its processor time is told beside it.

`processor_ratio` is that of processor seconds a frame: what the ratio would be if nothing overlapped. On a machine that
is busy with other work it says more than the ratio of frames a second.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from benchmarks.measure import store
from simipu_core.config import FinetuneConfig
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.prediction.inputs import find
from simipu_core.prediction.outputs import Save
from simipu_core.prediction.predictor import Predictor, load
from simipu_core.prediction.run import predict_all

SIZE = (375, 1242)
BATCH = 4
KINDS = [Save.COLOUR, Save.PNG]


def pictures(folder: Path, count: int) -> None:
    """Smooth JPEG pictures with some noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (12, 40, 3), np.uint8)
        image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-8, 8, image.shape, np.int16)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), image.clip(0, 255).astype(np.uint8))


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of work, and processor seconds."""
    begun, before = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - before


def bare(predictor: Predictor, count: int) -> None:
    """The network alone, without flip."""
    net, device = predictor.net, next(predictor.net.parameters()).device
    rng = np.random.default_rng(0)
    prepared = predictor.prepare(rng.integers(0, 256, (*SIZE, 3), np.uint8), None)
    batch = torch.from_numpy(np.stack([prepared.view.image] * BATCH)).permute(0, 3, 1, 2).to(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=predictor.precision == "bf16"):
        for _ in range(count // BATCH):
            net(batch).sum().item()


def whole(predictor: Predictor, folder: Path, out: Path) -> None:
    """From files to files."""
    predict_all(
        predictor, find([str(folder)]), out, KINDS, flip=False, batch_size=BATCH, overwrite=True, warn=lambda _: None
    )


def first_picture(weights: Path, picture: Path, out: Path, device: str) -> tuple[float, float]:
    """Seconds of a `simipu predict` of one picture, and processor seconds."""
    program = "from simipu_core.cli import main; main()"
    command = [sys.executable, "-c", program, "predict", weights, picture, "--out", out, "--device", device]
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*map(str, command), "--overwrite"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, spent


def main(frames: int = 16, rounds: int = 3, device: str = "cpu", precision: str = "fp32") -> None:
    """Measure, print and store; `frames` is a multiple of the batch."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        pictures(folder / "in", frames)
        weights = folder / "model.safetensors"
        config = FinetuneConfig(encoder_name="resnet18", decoder_channels=(256, 128, 64, 32), init="torch_default")
        save_depth_net(build_depth_net(config, None), weights)
        predictor = load(weights, device=device, precision=precision)  # type: ignore[arg-type]
        bare(predictor, BATCH)
        alone, all_in = [], []
        for _ in range(rounds):
            alone.append(timed(partial(bare, predictor, frames)))
            all_in.append(timed(partial(whole, predictor, folder / "in", folder / "out")))
        first = [first_picture(weights, folder / "in/0000.jpg", folder / "first", device) for _ in range(rounds)]
        result = {
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0],
            "precision": precision,
            "frames": frames,
            "frames_per_second_bare": frames / median(seconds for seconds, _ in alone),
            "frames_per_second": frames / median(seconds for seconds, _ in all_in),
            "ratio": median(one[0] / other[0] for one, other in zip(alone, all_in, strict=True)),
            "processor_ratio": median(one[1] / other[1] for one, other in zip(alone, all_in, strict=True)),
            "first_picture_seconds": min(seconds for seconds, _ in first),
            "first_picture_processor_seconds": min(spent for _, spent in first),
        }
    store("predict", result)


if __name__ == "__main__":
    options = dict(argument.split("=") for argument in sys.argv[1:])
    main(**{name: int(value) if value.isdigit() else value for name, value in options.items()})
