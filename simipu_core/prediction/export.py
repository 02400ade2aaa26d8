"""Depth nets for other runtimes: ONNX, and programs of `torch.export`. Nothing is written that answers otherwise."""

import copy
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from simipu_core.artifacts import sha256_file
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, write_file
from simipu_core.inference import fitted_view, full_depth
from simipu_core.models.depth_net import DepthNet, DepthNetSpec, load_depth_net
from simipu_core.prediction.inputs import Frame, find
from simipu_core.prediction.predictor import stored_weights

SMALLEST_EXPORTED_SIDE = 33
"""Pixels; the coarsest features of a smaller picture are one pixel, for which programs are specialised."""
OPSETS = range(18, 24)
"""Versions of ONNX's operators that can be written."""
BOUNDS = MappingProxyType({"fp32": 2.5e-4, "fp16": 1e-2})
"""Largest difference to PyTorch's float32 answer, as a fraction of the net's largest depth."""
METADATA = "simipu.json"
"""Extra file of a program with what an ONNX file has as metadata."""
_SIZE = (375, 1242)
"""Of made-up pictures for a net that does not tell its training's."""
_OTHER_SIZE = (2, 65, 110)
"""Batch, height and width, whose halves are odd, of a second picture that every file must answer to."""
_CHECKED = 4
_NEEDED = ("onnx", "onnxruntime", "onnxscript")

Format = Literal["onnx", "program"]
Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked."""

    metadata: dict[str, str]
    size: int
    """Bytes."""
    error: float
    """Largest difference to PyTorch, metres."""
    bound: float
    """That would have been refused, metres."""
    pictures: int


class ExportedNet(nn.Module):
    """A depth net with all that is computed on the way from a picture's pixels to metres.

    Args:
        net: in evaluation mode; left as it is.
        half: compute and store the network in float16; what goes in and out is the same.
    """

    def __init__(self, net: DepthNet, *, half: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        if half:
            self.net.encoder.half().register_forward_pre_hook(lambda _, images: images[0].half())
            self.net.decoder.half()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB → (B, H, W) float32 metres, clamped, at the pictures' size."""
        height, width = images.shape[-2:]
        return full_depth(self.net.spec, self.net(images), (height, width))


def export(
    model: str | Path,
    out: Path,
    *,
    format: Format = "onnx",  # noqa: A002 (the option's name)
    half: bool = False,
    opset: int = OPSETS[0],
    check: Sequence[str] = (),
) -> Exported:
    """Write a depth net as a file that other runtimes read, once it answers as PyTorch does.

    Args:
        model: as :func:`simipu_core.prediction.predictor.load` takes it.
        out: file to write; whole or not at all.
        format: what is written.
        half: compute and store in float16.
        opset: version of ONNX's operators, one of `OPSETS`.
        check: pictures, folders or shards, the first frames of which are compared; made-up pictures by default.

    Raises:
        SimipuError: no depth net, packages of the extra `export` are missing, the opset is none of `OPSETS`, no picture
            can be read, the answers differ by more than the bound, or the file cannot be written.
    """
    if format == "onnx":
        _check_onnx(opset)
    with stored_weights(model) as found:
        net = load_depth_net(found.file)
        metadata = {
            "simipu_version": version("simipu"),
            "weights_sha256": sha256_file(found.file),
            "licence": found.licence or "not stated by the weights",
            **_metadata(net.spec, half=half),
        }
    if format == "onnx":
        metadata["opset"] = str(opset)
    pictures = _read(check, net.spec) if check else [_made_up(1, *_view_size(net.spec))]
    pictures.append(_made_up(*_OTHER_SIZE))
    exact = ExportedNet(net)
    with torch.inference_mode():
        expected = [exact(torch.from_numpy(images)).numpy() for images in pictures]
    program = _program(ExportedNet(net, half=half) if half else exact)
    data, answer = _to_onnx(program, opset, metadata) if format == "onnx" else _to_bytes(program, metadata)
    error = max(_difference(answer(images), depth) for images, depth in zip(pictures, expected, strict=True))
    bound = BOUNDS[metadata["precision"]] * net.spec.max_depth
    if not error <= bound:
        raise SimipuError(
            f"{out}: is not written, for it would answer otherwise than PyTorch by up to {error:.3g} m, and "
            f"{bound:.3g} m are allowed; " + ("leave out --half." if half else "try another --opset or --format.")
        )
    with disk_errors(out):
        write_file(out, data)
    return Exported(metadata, len(data), error, bound, len(pictures))


def _check_onnx(opset: int) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SimipuError(
            f"{', '.join(missing)} must be installed for ONNX: pip install 'simipu[export]' (make setup-dev in a "
            "checkout); --format program does without."
        )
    if opset not in OPSETS:
        is_older = opset < OPSETS[0]
        raise SimipuError(
            f"opset {opset} is too {'old: it lacks operators of the network' if is_older else 'new to be checked here'}"
            f"; choose --opset {OPSETS[0]} to {OPSETS[-1]}."
        )


def _metadata(spec: DepthNetSpec, *, half: bool) -> dict[str, str]:
    return {
        "input": "images: uint8 RGB 0-255, batch x 3 x height x width, any height and width from "
        f"{SMALLEST_EXPORTED_SIDE} pixels on; normalised inside",
        "output": "depth: float32 metres along the optical axis, batch x height x width of the input",
        "precision": "fp16" if half else "fp32",
        "min_depth": f"{spec.min_depth:g}",
        "max_depth": f"{spec.max_depth:g}",
        "crop": spec.fixed_crop,
        "input_scale": f"{spec.input_scale:g}",
        "cameras": spec.cameras.model_dump_json() if spec.cameras else "not known",
    }


def _program(net: ExportedNet) -> ExportedProgram:
    """The net for any batch and size."""
    free = {
        0: Dim("batch", min=1),
        2: Dim("height", min=SMALLEST_EXPORTED_SIDE),
        3: Dim("width", min=SMALLEST_EXPORTED_SIDE),
    }
    example = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(net.eval(), (example,), dynamic_shapes={"images": free})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    return program


def _to_onnx(program: ExportedProgram, opset: int, metadata: dict[str, str]) -> tuple[bytes, Answer]:
    import onnxruntime

    made = torch.onnx.export(
        program, dynamo=True, opset_version=opset, input_names=["images"], output_names=["depth"], verbose=False
    )
    if made is None:  # only where it writes the file itself
        raise RuntimeError("torch.onnx.export gave no program")
    proto: Any = made.model_proto
    _name_sizes(proto.graph)
    proto.producer_name, proto.producer_version = "simipu", metadata["simipu_version"]
    del proto.metadata_props[:]
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    data: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: session.run(["depth"], {"images": images})[0]


def _name_sizes(graph: Any) -> None:
    """Give the free sizes their names; inner shapes, which would still tell the old ones, are left out."""
    for value in (graph.input[0], graph.output[0]):
        free = [size for size in value.type.tensor_type.shape.dim if not size.dim_value]
        for size, name in zip(free, ("batch", "height", "width"), strict=True):
            size.dim_param = name
    del graph.value_info[:]


def _to_bytes(program: ExportedProgram, metadata: dict[str, str]) -> tuple[bytes, Answer]:
    program.example_inputs = None  # else they are stored, too
    stored = io.BytesIO()
    torch.export.save(program, stored, extra_files={METADATA: json.dumps(metadata, indent=2, ensure_ascii=False)})
    data = stored.getvalue()
    loaded = torch.export.load(io.BytesIO(data)).module()

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            depth: NDArray[np.float32] = loaded(torch.from_numpy(images)).numpy()
        return depth

    return data, answer


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest, metres; infinite where there is no number, or another shape or type."""
    if found.shape != expected.shape or found.dtype != expected.dtype or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())


def _view_size(spec: DepthNetSpec) -> tuple[int, int]:
    """Height and width of what a net is shown of a frame of its training."""
    size = spec.cameras.size if spec.cameras else _SIZE
    height, width = fitted_view(spec, np.zeros((*size, 3), np.uint8)).image.shape[:2]
    return height, width


def _made_up(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth pictures with some noise, (B, 3, H, W)."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (12, 40, 3), np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        images.append((smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def _read(check: Sequence[str], spec: DepthNetSpec) -> list[NDArray[np.uint8]]:
    """The first readable frames as a net is shown them, (1, 3, H, W) each."""
    pictures: list[NDArray[np.uint8]] = []
    reason = "there are none"
    for source in find(check):
        for frame in source.frames():
            try:
                if not isinstance(frame, Frame):
                    raise SimipuError(frame.reason)
                image = fitted_view(spec, frame.read()).image
            except SimipuError as error:
                reason = f"{frame.source}: {error}"
                continue
            pictures.append(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
            if len(pictures) == _CHECKED:
                return pictures
    if not pictures:
        raise SimipuError(f"--check: no picture can be read ({reason}); give pictures, a folder of them, or shards.")
    return pictures
