"""What Kubernetes' policies of admission make of a resource, or say of it: as much of CEL as deploy/policies uses."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

_OBJECT = re.compile(r"Object((?:\.\w+)*)\{")
_FIELD = re.compile(r"(\w+): (?:\S+\.map\(\w+, )?Object((?:\.\w+)*)\{")


class _Value:
    """A CEL value whose fields are attributes."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        value = self._fields[name]
        if isinstance(value, Mapping):
            return _Value(value)
        return _List(value) if isinstance(value, list) else value

    def optional(self, *path: str) -> "_List":
        """The list at the end of a path, or an empty one."""
        value: Any = self._fields
        for name in path:
            value = value.get(name, {})
        return _List(value or [])


class _List(list[Any]):
    def map(self, function: Callable[[Any], Any]) -> list[Any]:
        return [function(_Value(each)) for each in self]

    def all(self, function: Callable[[Any], bool]) -> bool:
        return all(self.map(function))


def _has(value: _Value, name: str) -> bool:
    return name in value._fields


def mutated(pod: dict[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """A pod as the policy leaves it; one that it does not match stays as it is."""
    constraints = policy["spec"]["matchConstraints"]
    labels = pod.get("metadata", {}).get("labels", {})
    if not constraints["objectSelector"]["matchLabels"].items() <= labels.items():
        return pod
    for mutation in policy["spec"]["mutations"]:
        assert mutation["patchType"] == "ApplyConfiguration"
        pod = _merged(pod, _evaluated(mutation["applyConfiguration"]["expression"], {"object": pod}))
    return pod


def holds(expression: str, **variables: Mapping[str, Any]) -> bool:
    """Whether a condition holds, of `object` or `request`."""
    return bool(_evaluated(expression, variables))


def _evaluated(expression: str, variables: Mapping[str, Mapping[str, Any]]) -> Any:
    for field, kind in _FIELD.findall(expression):
        assert kind.endswith(f".{field}"), f"{field} is no Object{kind}"  # the API server refuses it too
    text = _OBJECT.sub("dict(", expression).replace("}", ")")
    text = re.sub(r"(\w+): ", r"\1=", text)
    text = re.sub(r"((?:\.\?\w+)+)\.orValue\(\[\]\)", _optional, text)
    text = re.sub(r"\.(map|all)\((\w+),\s+", r".\1(lambda \2: ", text)
    text = re.sub(r"has\(([\w.]+)\.(\w+)\)", r'has(\1, "\2")', text)
    text = text.replace("!", " not ").replace("&&", "and").replace("||", "or")
    known: dict[str, Any] = {name: _Value(value) for name, value in variables.items()}
    names = {"__builtins__": {}, "true": True, "false": False, "dict": dict, "has": _has, **known}
    return eval(f"({text})", names)


def _optional(found: "re.Match[str]") -> str:
    path = ", ".join(f'"{name}"' for name in found[1].split(".?")[1:])
    return f".optional({path})"


def _merged(old: Any, new: Any) -> Any:
    """Server-side apply: maps by key, containers by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**copy.deepcopy(old), **{key: _merged(old.get(key), value) for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and all("name" in item for item in [*old, *new]):
        named = {item["name"]: item for item in new}
        return [_merged(item, named.get(item["name"], {})) for item in old]
    assert not isinstance(new, list) or not new, "lists without names are atomic: no policy may merge into them"
    return new
