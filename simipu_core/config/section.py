"""What all sections of the configuration have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from simipu_core import addresses
from simipu_core.errors import SimipuError


class Section(BaseModel):
    """Base of every section: immutable, closed, documented, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair[0]} to {pair[1]} is no range; write the smaller number first")
    return pair


def _wide(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError(f"nothing lies between {pair[0]} and {pair[1]}; write the smaller number first")
    return pair


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _readable(address: str) -> str:
    try:
        addresses.plain(address)
    except SimipuError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return address


DEFAULT_KINDS: set[str] = set()
"""Kinds that sections may be of without saying so."""


def kind_or(default: str) -> BeforeValidator:
    """Let a section among several that `kind` tells apart be of this kind where none is written."""
    DEFAULT_KINDS.add(default)

    def with_kind(values: Any) -> Any:
        return {"kind": default, **values} if isinstance(values, dict) else values

    return BeforeValidator(with_kind)


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
DepthRange = Annotated[tuple[Annotated[float, Field(ge=0)], Positive], AfterValidator(_wide)]
"""Nearest and farthest depth, metres, exclusive."""
Pixels = Annotated[int, Field(ge=1, le=1 << 16)]
Size = tuple[Pixels, Pixels]
"""Height and width, pixels."""
SizeRange = tuple[Size, Size]
"""Least and largest height and width, pixels."""
ANY_SIZE = ((1, 1), (1 << 16, 1 << 16))
DecoderChannels = tuple[Count, Count, Count, Count]
PixelRange = Annotated[tuple[Pixels, Pixels], AfterValidator(_ascending)]
Seed = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
"""Pipelines hand numbers over as JSON, which would round larger ones."""
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
"""Momentum and second-moment decay of AdamW."""
Address = Annotated[str, Field(min_length=1), AfterValidator(_one_line), AfterValidator(_readable)]
"""A local path, or s3://…"""
