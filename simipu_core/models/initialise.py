"""Where an image encoder's weights come from before training."""

from pathlib import Path
from typing import Literal

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import nn

from simipu_core import storage
from simipu_core.artifacts import sha256_file, sha256_text
from simipu_core.config import InputConfig
from simipu_core.errors import SimipuError
from simipu_core.models.foreign import CONVENTIONS, read_encoder
from simipu_core.models.image_encoder import reset_to_torch_default
from simipu_core.storage.cache import cached

Init = Literal["kaiming_zero_gamma", "torch_default", "imagenet", "checkpoint", "pretrained"]
_TIMEOUT_S = 10


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
        init_file: weights in any layout that `read_encoder` knows, or the answer of :func:`pin`; loaded strictly.
        expected: input convention of the stage.
        allow_input_mismatch: load weights of another or of an unknown convention too.

    Raises:
        SimipuError: the file is missing, cannot be read, is not whole, or is of another architecture or input
            convention; or ImageNet weights cannot be downloaded.
    """
    if init == "torch_default":
        reset_to_torch_default(encoder)
    if init in ("torch_default", "kaiming_zero_gamma"):
        return
    if init_file is None and init != "imagenet":
        raise SimipuError(f"init is `{init}`, but no weights are named; name them in init_file.")
    file = _checked(init_file) if init_file else _imagenet_file(name)
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


def pin(init_file: str) -> str:
    """The absolute path or S3 address of a weights file and its sha256: an `init_file` for this content alone.

    Raises:
        SimipuError: no such file, or S3 fails.
    """
    place, _ = _parts(init_file)
    return f"{place.absolute()}#{sha256_file(_checked(init_file))}"


def weights_digest(init_file: str | None) -> dict[str, str]:
    """The sha256 of the named weights, as an artifact's further input; empty where none are named.

    Raises:
        SimipuError: no such file, or S3 fails.
    """
    return {"init_file": sha256_file(_checked(init_file))} if init_file else {}


def _checked(init_file: str) -> Path:
    """The local file, of one in S3 a copy in the cache."""
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


def _imagenet_file(name: str) -> Path:
    """ImageNet V1 weights of torchvision, as timm keeps them; from the cache, or downloaded once."""
    repository, file = f"timm/{name}.tv_in1k", "model.safetensors"
    if isinstance(cached := try_to_load_from_cache(repository, file), str):
        return Path(cached)
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=_TIMEOUT_S)  # fails at once, unlike the download
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # whatever the network library raises
        reason = str(error).strip().split("\n")[0]
        raise SimipuError(
            f"ImageNet weights of {name} cannot be downloaded ({reason}); set init_file to a file of them, such as "
            f"torchvision's {name}-*.pth."
        ) from error


def _described(convention: InputConfig) -> str:
    return f"{convention.channels} input with mean {convention.mean} and std {convention.std}"
