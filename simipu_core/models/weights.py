"""Weights as safetensors that carry their own specification; always loaded strictly."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from simipu_core.config import InputConfig, Section
from simipu_core.errors import SimipuError

_KEY = "simipu"
SpecT = TypeVar("SpecT", bound=Section)


class EncoderSpec(Section):
    """What an image encoder's weights are."""

    kind: Literal["encoder"] = "encoder"
    name: str
    """timm architecture; tensor names are torchvision's."""
    norm_eps: float
    input: InputConfig


def save_weights(module: nn.Module, file: Path, spec: Section) -> None:
    """Write a module's tensors with their specification in the file's metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, file, metadata={_KEY: spec.model_dump_json()})


def read_spec(file: Path, spec: type[SpecT]) -> SpecT:
    """Read the specification inside a weights file.

    Raises:
        SimipuError: the file is not there, not safetensors, or holds something else.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        return spec.model_validate_json(metadata[_KEY])
    except FileNotFoundError:
        raise SimipuError(f"{file}: no such weights file.") from None
    except (SafetensorError, OSError) as error:
        raise SimipuError(f"{file}: not a readable safetensors file ({error}); copy or make it again.") from None
    except (KeyError, ValidationError):
        raise SimipuError(
            f"{file}: carries no {spec.__name__}; give the file that a `simipu` step wrote, of the right kind."
        ) from None


def load_weights(module: nn.Module, file: Path) -> None:
    """Load every tensor of a file into a module, strictly.

    Raises:
        SimipuError: a tensor is missing, unexpected or of another shape; the first ones are named.
    """
    tensors = load_file(file)
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    reshaped = sorted(name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape)
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)):
        if names:
            raise SimipuError(f"{file}: {len(names)} of {len(expected)} tensors are {problem}: {', '.join(names[:3])}.")
    module.load_state_dict(tensors)
