"""What servers answer, read so that nothing in it is taken for granted."""

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value that a JSON text means.

    Raises:
        ValueError: it is cut off, no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
