"""How much faster ONNX Runtime computes an exported network than PyTorch does eagerly, on one thread each.

From uint8 pixels of KITTI's benchmark crop to metres at the picture's size; processor seconds, in turns, in one
process. `published` is the published network (ResNet-50, 77.8 million parameters), whose time is that of its large
convolutions, for which both have good code; `small` that of `bench_predict`. The weights are random.
`largest_difference_m` is what `simipu export` compares before it writes.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch

from benchmarks.measure import seconds, single_thread, store
from simipu_core.config import FinetuneConfig
from simipu_core.models.depth_net import build_depth_net, save_depth_net
from simipu_core.prediction.export import ExportedNet, export

SIZE = (352, 1216)
NETS = {
    "published": FinetuneConfig(init="torch_default"),
    "small": FinetuneConfig(encoder_name="resnet18", decoder_channels=(256, 128, 64, 32), init="torch_default"),
}


def compared(config: FinetuneConfig, rounds: int) -> dict[str, float]:
    """Both ways with one network."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE), np.uint8)
    net = build_depth_net(config, None).eval()
    with TemporaryDirectory() as folder:
        weights, file = Path(folder) / "model.safetensors", Path(folder) / "depth.onnx"
        save_depth_net(net, weights)
        exported = export(weights, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    eager = ExportedNet(net)

    def pytorch() -> None:
        with torch.inference_mode():
            eager(torch.from_numpy(images))

    spent = seconds({"pytorch": pytorch, "onnx": lambda: session.run(None, {"images": images})}, rounds)
    return {
        "processor_seconds_pytorch": spent["pytorch"],
        "processor_seconds_onnx": spent["onnx"],
        "ratio": spent["pytorch"] / spent["onnx"],
        "largest_difference_m": exported.error,
    }


def main(rounds: int = 3) -> None:
    """Measure, print and store."""
    single_thread()
    nets = {name: compared(config, rounds) for name, config in NETS.items()}
    store("export", {"load_average": os.getloadavg()[0], "size": list(SIZE), **nets})


if __name__ == "__main__":
    main(**{name: int(value) for name, value in (argument.split("=") for argument in sys.argv[1:])})
