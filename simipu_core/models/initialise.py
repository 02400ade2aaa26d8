"""Where an image encoder's weights come from before training."""

from pathlib import Path
from typing import Literal

from torch import nn

from simipu_core import storage
from simipu_core.artifacts import sha256_file, sha256_text
from simipu_core.config import InputConfig
from simipu_core.errors import SimipuError
from simipu_core.models import hub
from simipu_core.models.foreign import CONVENTIONS, read_encoder
from simipu_core.models.image_encoder import reset_to_torch_default
from simipu_core.storage.cache import cached

Init = Literal["kaiming_zero_gamma", "torch_default", "imagenet", "checkpoint", "pretrained"]


def initialise(
    encoder: nn.Module,
    name: str,
    init: Init,
    init_file: str | None,
    expected: InputConfig,
    *,
    allow_input_mismatch: bool = False,
) -> None:
    """Give a new encoder, as `image_encoder` built it, its first weights.

    Args:
        encoder: changed in place.
        name: its timm architecture.
        init: `kaiming_zero_gamma` is how it was built, and leaves it · `torch_default` draws PyTorch's default
            weights · `imagenet` loads `init_file`, or else torchvision's V1 weights from timm's model hub ·
            `checkpoint` and `pretrained` load `init_file`.
        init_file: weights in any layout that `read_encoder` knows, ``hf://OWNER/NAME@REVISION/FILE#SHA256``, or the
            answer of :func:`pin`; loaded strictly.
        expected: input convention of the stage.
        allow_input_mismatch: load weights of another or of an unknown convention too.

    Raises:
        SimipuError: the file is missing, cannot be read or downloaded, is not whole, has not the digest that it
            should, or is of another architecture or input convention.
    """
    if init == "torch_default":
        reset_to_torch_default(encoder)
    if init in ("torch_default", "kaiming_zero_gamma"):
        return
    source = weights_source(name, init, init_file)
    if source is None:
        raise SimipuError(f"init is `{init}`, but no weights are named; name them in init_file.")
    file = _checked(source)
    weights = read_encoder(file)
    if weights.name != name:
        raise SimipuError(f"{file}: holds a {weights.name}, but the configured encoder is a {name}; set the same.")
    made_on = weights.input
    if init == "imagenet":
        made_on = made_on or CONVENTIONS["imagenet"]  # the experiment says so where the file does not
        if made_on != CONVENTIONS["imagenet"]:
            raise SimipuError(
                f"{file}: was made on {_described(made_on)}, which is not ImageNet's convention; set init to "
                "`checkpoint` to start from it."
            )
    if made_on != expected and not allow_input_mismatch:
        made = f"was made on {_described(made_on)}" if made_on else "does not tell its input convention"
        mend = "set the stage's `input` to the same" if made_on else "state it with `simipu weights import --input`"
        raise SimipuError(
            f"{file}: {made}, but the stage shows {_described(expected)}; {mend}, or, for fine-tuning alone, "
            "finetune.allow_input_mismatch to accept that."
        )
    encoder.load_state_dict(weights.tensors)


def weights_source(name: str, init: Init, init_file: str | None) -> str | None:
    """What :func:`initialise` loads: `init_file`; for `imagenet` without one, the pinned address of the hub's weights.

    Raises:
        SimipuError: those can neither be found in the hub's cache nor downloaded.
    """
    if init == "imagenet" and init_file is None:
        return hub.newest(f"timm/{name}.tv_in1k", "model.safetensors").address
    return init_file


def pin(init_file: str) -> str:
    """The absolute path or S3 address of a weights file and its sha256: an `init_file` for this content alone.

    Raises:
        SimipuError: no such file, S3 fails, or an address in the hub names no revision or digest.
    """
    if init_file.startswith(hub.SCHEME):
        return hub.HubFile.at(init_file).address
    place, _ = _parts(init_file)
    return f"{place.absolute()}#{sha256_file(_checked(init_file))}"


def weights_digest(init_file: str | None) -> dict[str, str]:
    """The sha256 of the named weights, as an artifact's further input; empty where none are named.

    Raises:
        SimipuError: no such file, or S3 or the hub fails.
    """
    return {"init_file": sha256_file(_checked(init_file))} if init_file else {}


def _checked(init_file: str) -> Path:
    """The local file, of one in S3 or the hub a copy in the cache."""
    if init_file.startswith(hub.SCHEME):
        return hub.HubFile.at(init_file).fetch()
    place, sha256 = _parts(init_file)
    storage.forget_listings()
    if not place.is_file():
        raise SimipuError(f"{place}: no such weights file; set init_file to one.")
    file = _fetched(place) if isinstance(place, storage.S3Path) else place
    if sha256 and sha256_file(file) != sha256:
        raise SimipuError(f"{place}: changed since the run was submitted; submit the run again.")
    return file


def _parts(init_file: str) -> tuple[Path, str | None]:
    address, sha256 = storage.split_pin(init_file)
    return storage.place(address), sha256


def _fetched(file: storage.S3Path) -> Path:
    size, version = file.stat().st_size, sha256_text(f"{file} {file.etag}")

    def fetch(folder: Path) -> None:
        (folder / file.name).write_bytes(file.read_bytes())

    return cached(f"weights-{version[:32]}", fetch, size) / file.name


def _described(convention: InputConfig) -> str:
    return f"{convention.channels} input with mean {convention.mean} and std {convention.std}"
