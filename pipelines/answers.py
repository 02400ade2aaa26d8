"""What servers answer, read so that nothing in it is taken for granted."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


def read_json(text: str | bytes) -> Any:
    """The value that a JSON text means.

    Raises:
        ValueError: it is cut off, no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Part(BaseModel):
    """A part of an answer, its fields in camel case: one that is null counts as missing, unknown ones do not matter."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None}
