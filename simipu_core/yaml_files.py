"""YAML from untrusted files: plain values only, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from simipu_core.errors import SimipuError

_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000
"""Values of a file after its aliases are written out, which can multiply them without end."""


def read_yaml(file: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        FileNotFoundError: no such file.
        SimipuError: it cannot be read, is no YAML, or is out of all proportion; a reason to be put after its name.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SimipuError(f"cannot be read ({error.strerror})") from None
    if len(data) > _MOST_BYTES:
        raise SimipuError("larger than 1 MiB")
    return parse_yaml(data)


def parse_yaml(text: str | bytes) -> Any:
    """Plain values of YAML text.

    Raises:
        SimipuError: no YAML, or out of all proportion; a reason to be put after the file's name.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return None
        _count(node, {}, set())
        loader = yaml.SafeLoader("")
        return loader.construct_document(node)
    except RecursionError:
        raise SimipuError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        # beside its own errors PyYAML lets out those of Python's number and time constructors
        raise SimipuError(f"not readable as YAML ({' '.join(str(error).split())[:200]})") from None


def _count(node: yaml.Node, counted: dict[int, int], above: set[int]) -> int:
    """Number of values below a node, aliases written out."""
    key = id(node)
    if key in above:
        raise SimipuError("holds an alias to a part that holds itself")
    if key not in counted:
        above.add(key)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        children = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else []
        children = node.value if isinstance(node, yaml.SequenceNode) else children
        counted[key] = 1 + sum(_count(child, counted, above) for child in children)
        above.remove(key)
        if counted[key] > _MOST_VALUES:
            raise SimipuError(f"holds more than {_MOST_VALUES} values, aliases written out")
    return counted[key]


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that stands twice, of which YAML's readers take the last without a word."""
    seen: set[str] = set()
    for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
        if key in seen:
            raise SimipuError(f"names `{key}` twice in one section")
        seen.add(key)
