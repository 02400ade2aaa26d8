"""How near `simipu predict` comes to the bare network's frames a second, and how long its first picture takes.

KITTI's size, JPEG in, colour and 16-bit PNG out. The network is a ResNet-18 with a quarter of the published decoder and
random weights, a fast one, beside which reading and writing weigh more than beside the published; bare, it is shown
batches that lie ready in memory, and its answers are dropped. Both take turns in one process. The first picture is a
process of its own, imports and reading of the weights included; the best of its rounds counts, since a busy machine
only adds, and its processor time is told beside it.
"""

import resource
import subprocess
import sys
import time
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


def bare(predictor: Predictor, count: int) -> float:
    """Frames a second of the network alone, without flip."""
    net, device = predictor.net, next(predictor.net.parameters()).device
    rng = np.random.default_rng(0)
    prepared = predictor.prepare(rng.integers(0, 256, (*SIZE, 3), np.uint8), None)
    batch = torch.from_numpy(np.stack([prepared.view.image] * BATCH)).permute(0, 3, 1, 2).to(device)
    begun = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=predictor.precision == "bf16"):
        for _ in range(count // BATCH):
            net(batch).sum().item()
    return count // BATCH * BATCH / (time.perf_counter() - begun)


def whole(predictor: Predictor, folder: Path, out: Path) -> float:
    """Frames a second from files to files."""
    done = predict_all(
        predictor, find([str(folder)]), out, KINDS, flip=False, batch_size=BATCH, overwrite=True, warn=lambda _: None
    )
    return done.predicted / done.seconds


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
    """Measure, print and store."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        pictures(folder / "in", frames)
        weights = folder / "model.safetensors"
        config = FinetuneConfig(encoder_name="resnet18", decoder_channels=(256, 128, 64, 32), init="torch_default")
        save_depth_net(build_depth_net(config, None), weights)
        predictor = load(weights, device=device, precision=precision)  # type: ignore[arg-type]
        bare(predictor, BATCH)
        rates = [(bare(predictor, frames), whole(predictor, folder / "in", folder / "out")) for _ in range(rounds)]
        first = [first_picture(weights, folder / "in/0000.jpg", folder / "first", device) for _ in range(rounds)]
        result = {
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "threads": torch.get_num_threads(),
            "precision": precision,
            "frames": frames,
            "frames_per_second_bare": median(rate for rate, _ in rates),
            "frames_per_second": median(rate for _, rate in rates),
            "ratio": median(rate / alone for alone, rate in rates),
            "first_picture_seconds": min(seconds for seconds, _ in first),
            "first_picture_processor_seconds": min(spent for _, spent in first),
        }
    store("predict", result)


if __name__ == "__main__":
    options = dict(argument.split("=") for argument in sys.argv[1:])
    main(**{name: int(value) if value.isdigit() else value for name, value in options.items()})
