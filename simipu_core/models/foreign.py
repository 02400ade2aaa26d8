"""ResNet encoders in the files of other programs: recognised by their tensor names, read whole or not at all.

=============  ==================  ====================================================================================
layout         names               written by
=============  ==================  ====================================================================================
`simipu`       ``img_backbone.*``  the published SimIPU pre-training, beside its point encoder and heads
`openmmlab`    ``backbone.*``      the published conversion of those, whole depth and segmentation nets, classifiers
`depth_net`    ``encoder.*``       `simipu finetune`
`torchvision`  bare                torchvision and timm, which share their names; `simipu pretrain`
=============  ==================  ====================================================================================

Files carry no word about their input, unless this program wrote them. It then follows from the layout and from what
stands beside the encoder:

* ImageNet classifiers (bare names with ``fc.*``, ``backbone.*`` with ``head.*``) and the depth toolbox's nets
  (``backbone.*`` with ``decode_head.*``): RGB with ImageNet's mean and deviation (docs/method.md, "Weights").
* ``img_backbone.*``, and ``backbone.*`` alone, which is what the published conversion leaves: BGR, mean subtracted,
  deviation 1 (docs/method.md, "Weights").
* All else says nothing, and is unknown.

OpenMMLab's "caffe" ResNets have the same names and shapes but stride in another convolution: they cannot be told
apart and are not supported.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from simipu_core.config import InputConfig
from simipu_core.config.backbones import BACKBONES
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, write_file
from simipu_core.models.image_encoder import image_encoder
from simipu_core.models.weights import SPEC_KEY, EncoderSpec, check_tensors, read_safetensors, to_bytes

Layout = Literal["torchvision", "timm", "openmmlab", "simipu"]
PREFIXES: dict[Layout, str] = {"torchvision": "", "timm": "", "openmmlab": "backbone.", "simipu": "img_backbone."}
"""What stands before an encoder's tensor names, by layout."""

CONVENTIONS = {
    "imagenet": InputConfig(),
    "simipu": InputConfig(channels="bgr", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0)),
}
"""Input conventions of published weights: ImageNet classifiers, and SimIPU's pre-training."""

_READ_AS = {"img_backbone.": "simipu", "backbone.": "openmmlab", "encoder.": "depth_net", "": "torchvision"}
_TORCH_SUFFIXES = (".pth", ".pt")


@dataclass(frozen=True)
class EncoderWeights:
    """A whole image encoder, as a file held it."""

    layout: str
    name: str
    """timm architecture."""
    tensors: dict[str, Tensor]
    """Every tensor of the encoder, under torchvision's names without ``fc``."""
    input: InputConfig | None
    """Input convention; None where neither the file nor its layout tells."""
    norm_eps: float
    is_stated: bool
    """Whether the file itself states its input and epsilon; else they follow from its layout."""
    num_others: int
    """Tensors of the file that are no part of the encoder."""
    has_counters: bool
    """Whether the file holds BatchNorm's ``num_batches_tracked``; those of torchvision before 2018 do not."""


class _Stated(BaseModel):
    """What the specifications of encoders and of depth nets have in common."""

    input: InputConfig
    norm_eps: float


def read_encoder(file: Path) -> EncoderWeights:
    """Find the image encoder in a weights file, strictly: all of its tensors, 318 for ResNet-50, or an error.

    Where BatchNorm's counters of batches are absent altogether, they are zero, as in PyTorch's own reading of such
    files; nothing depends on them.

    Args:
        file: ``.safetensors``; or ``.pth`` or ``.pt``, of which only plain tensors are read (``weights_only``).

    Raises:
        SimipuError: no such file, another format, code inside, or no whole encoder of `BACKBONES`; the first
            missing, unexpected or differently shaped tensors are named.
    """
    found, stated = _read(file)
    prefix = next((prefix for prefix in _READ_AS if any(name.startswith(f"{prefix}layer1.0.") for name in found)), None)
    if prefix is None:
        raise SimipuError(
            f"{file}: holds no ResNet under any known layout (its tensors begin with {', '.join(list(found)[:3])}); "
            "give one of SimIPU, torchvision, timm or OpenMMLab."
        )
    layout = _READ_AS[prefix]
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    if not prefix:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    name = _architecture(tensors)
    where = f"{file} ({layout} layout{f', {name}' if name else ''})"
    if name is None:
        raise SimipuError(f"{where}: is none of {', '.join(BACKBONES)}; give one of them, whole.")
    with torch.device("meta"):
        expected = image_encoder(name).state_dict()
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    has_counters = not counters.isdisjoint(tensors)
    if not has_counters:
        tensors |= {name: torch.zeros((), dtype=torch.int64) for name in counters}
    check_tensors(tensors, expected, where)
    others = [name for name in found if name.removeprefix(prefix) not in expected]
    return EncoderWeights(
        layout=layout,
        name=name,
        tensors=tensors,
        input=stated.input if stated else _usual_input(layout, {name.split(".")[0] for name in others}),
        norm_eps=stated.norm_eps if stated else 1e-3 if layout == "simipu" else 1e-5,
        is_stated=stated is not None,
        num_others=len(others),
        has_counters=has_counters,
    )


def write_encoder(weights: EncoderWeights, layout: Layout, file: Path) -> None:
    """Write an encoder for another program; the file appears whole or not at all.

    The names are those of `PREFIXES`. For torchvision there is no ``fc``: give the model ``fc = nn.Identity()`` and
    load strictly; for timm, ``num_classes=0``; for OpenMMLab, ``init_cfg`` with ``prefix="backbone."``, without which
    nothing would load (docs/method.md, "Weights"). The input convention goes along, except in ``.pth`` files with bare
    names, which have no place for it.

    Args:
        weights: from :func:`read_encoder`.
        layout: whose names to use.
        file: ``.safetensors``; or ``.pth`` or ``.pt``, where prefixed names lie below ``state_dict``.

    Raises:
        SimipuError: the file exists or cannot be written, or its name asks for another format.
    """
    if file.exists():
        raise SimipuError(f"{file}: already exists; remove it or choose another file.")
    prefix = PREFIXES[layout]
    tensors = {prefix + name: tensor for name, tensor in weights.tensors.items()}
    spec = EncoderSpec(name=weights.name, norm_eps=weights.norm_eps, input=weights.input) if weights.input else None
    if file.suffix == ".safetensors":
        data = to_bytes(tensors, spec)
    elif file.suffix in _TORCH_SUFFIXES:
        meta = {SPEC_KEY: spec.model_dump_json()} if spec else {}
        torch.save({"meta": meta, "state_dict": tensors} if prefix else tensors, buffer := io.BytesIO())
        data = buffer.getvalue()
    else:
        raise _unknown_format(file)
    with disk_errors(file):
        write_file(file, data)


def _architecture(tensors: Mapping[str, Tensor]) -> str | None:
    blocks = {tuple(name.split(".")[:2]) for name in tensors if name.startswith("layer")}
    sizes = tuple(sum(stage == f"layer{i}" for stage, _ in blocks) for i in range(1, 5))
    is_bottleneck = any(name.endswith(".conv3.weight") for name in tensors)
    return next((name for name, backbone in BACKBONES.items() if backbone == (is_bottleneck, sizes)), None)


def _usual_input(layout: str, neighbours: set[str]) -> InputConfig | None:
    """Convention of a file that does not state it, by the first parts of the names beside its encoder."""
    if layout == "simipu" or (layout == "openmmlab" and not neighbours):
        return CONVENTIONS["simipu"]
    classifiers = {"torchvision": {"fc"}, "openmmlab": {"head", "decode_head"}}.get(layout, set())
    return CONVENTIONS["imagenet"] if neighbours and neighbours <= classifiers else None


def _read(file: Path) -> tuple[dict[str, Tensor], _Stated | None]:
    """All named tensors of a file, wrappings removed, and what it states about them."""
    content: Any
    metadata: Any
    if file.suffix == ".safetensors":
        content, metadata = read_safetensors(file)
    elif file.suffix in _TORCH_SUFFIXES:
        content = _load_plain(file)
        metadata = content.get("meta") if isinstance(content, dict) else None
        for key in ("state_dict", "model"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
    else:
        raise _unknown_format(file)
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SimipuError(f"{file}: holds no named tensors; give a file with a model's state_dict.")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    try:
        stated = _Stated.model_validate_json(metadata[SPEC_KEY]) if metadata and SPEC_KEY in metadata else None
    except ValidationError:
        raise SimipuError(f"{file}: its specification cannot be read; write the file again.") from None
    return tensors, stated


def _load_plain(file: Path) -> Any:
    """Content of a PyTorch file; nothing inside it is run."""
    try:
        is_zip = zipfile.is_zipfile(file)
        with file.open("rb") as opened:
            is_old = opened.read(2) == b"\x80\x02"  # a pickle, as PyTorch wrote them before 1.6
        if not is_zip and not is_old:
            raise SimipuError(f"{file}: not a PyTorch file; copy or make it again.")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except FileNotFoundError:
        raise SimipuError(f"{file}: no such weights file.") from None
    except pickle.UnpicklingError:
        raise SimipuError(
            f"{file}: holds more than plain tensors and values: to read it, code from inside it would have to run; "
            "where you trust it, save its state_dict alone and give that."
        ) from None
    except SimipuError:
        raise
    except Exception as error:  # PyTorch's own unpickler fails in as many ways as there are damaged files
        reason = " ".join(str(error).split())[:200]
        raise SimipuError(f"{file}: not a readable PyTorch file ({reason}); copy or make it again.") from None


def _unknown_format(file: Path) -> SimipuError:
    return SimipuError(f"{file}: weights are .safetensors, .pth or .pt files; give one with such a name.")
