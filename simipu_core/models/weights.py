"""Weights as safetensors that carry their own specification; always loaded strictly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from simipu_core.config import InputConfig, Section
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, write_file

SPEC_KEY = "simipu"
"""Key of the specification in a file's metadata."""
SpecT = TypeVar("SpecT", bound=Section)


@dataclass(frozen=True)
class StoredWeights:
    """A weights file, and what is known beside it."""

    file: Path
    licence: str | None = None
    """Of the data that it was trained on."""


class EncoderSpec(Section):
    """What an image encoder's weights are."""

    kind: Literal["encoder"] = "encoder"
    name: str
    """timm architecture; tensor names are torchvision's."""
    norm_eps: float
    """BatchNorm epsilon it was trained with."""
    input: InputConfig
    """What it was trained to see; a stage that goes on from it must show the same."""


def save_weights(module: nn.Module, file: Path, spec: Section) -> None:
    """Write a module's tensors with their specification in the file's metadata.

    Raises:
        SimipuError: the file cannot be written.
    """
    with disk_errors(file):
        save_tensors(module.state_dict(), file, spec)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, spec: Section | None) -> None:
    """Write tensors as safetensors, with their specification, where there is one, in the file's metadata."""
    write_file(file, to_bytes(tensors, spec))


def to_bytes(tensors: Mapping[str, Tensor], spec: Section | None) -> bytes:
    """What :func:`save_tensors` writes; the library's own writing of files has errors that are no `OSError`."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={SPEC_KEY: spec.model_dump_json()} if spec else None)


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata.

    Raises:
        SimipuError: the file is not there or not safetensors.
    """
    metadata = _metadata(file)
    return load_file(file), metadata


def read_spec(file: Path, spec: type[SpecT]) -> SpecT:
    """Read the specification inside a weights file.

    Raises:
        SimipuError: the file is not there, not safetensors, or holds something else.
    """
    try:
        return spec.model_validate_json(_metadata(file)[SPEC_KEY])
    except (KeyError, ValidationError):
        raise SimipuError(
            f"{file}: carries no {spec.__name__}; give the file that a `simipu` step wrote, of the right kind."
        ) from None


def load_weights(module: nn.Module, file: Path) -> None:
    """Load every tensor of a file into a module, strictly.

    Raises:
        SimipuError: the file is not there or not safetensors; or a tensor is missing, unexpected or of another shape.
    """
    tensors, _ = read_safetensors(file)
    check_tensors(tensors, module.state_dict(), str(file))
    module.load_state_dict(tensors)


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes with those expected.

    Raises:
        SimipuError: a tensor is missing, unexpected or of another shape; the first ones are named.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    reshaped = sorted(name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape)
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)):
        if names:
            raise SimipuError(
                f"{where}: {len(names)} of {len(expected)} tensors are {problem}: {', '.join(names[:3])}."
            )


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except FileNotFoundError:
        raise SimipuError(f"{file}: no such weights file.") from None
    except (SafetensorError, OSError) as error:
        raise SimipuError(f"{file}: not a readable safetensors file ({error}); copy or make it again.") from None
