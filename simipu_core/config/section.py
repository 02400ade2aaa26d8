"""What all sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict

Range = tuple[float, float]
Size = tuple[int, int]


class Section(BaseModel):
    """Base of every section: immutable, closed, documented."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
