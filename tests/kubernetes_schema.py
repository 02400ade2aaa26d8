"""Strict reading of Kubernetes resources with the models of its official client: unknown fields are errors."""

import re
from collections.abc import Iterator
from typing import Any

from kubernetes import client

_PRIMITIVES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "datetime": str,
    "object": object,
}


def problems(resource: dict[str, Any]) -> list[str]:
    """What is wrong with a resource: unknown or missing fields, values of another type."""
    group, _, version = resource["apiVersion"].rpartition("/")
    name = f"{version.capitalize()}{resource['kind']}"
    if not hasattr(client, name) or group not in (
        "",
        "admissionregistration.k8s.io",
        "apps",
        "batch",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
    ):
        return [f"{resource['apiVersion']} {resource['kind']}: not a kind of the client's"]
    return list(differences(resource, name, resource["kind"]))


def differences(value: Any, kind: str, where: str) -> Iterator[str]:
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: must be a list"
            return
        for place, item in enumerate(value):
            yield from differences(item, found[1], f"{where}[{place}]")
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        for key, item in value.items():
            yield from differences(item, found[1], f"{where}.{key}")
    elif kind in _PRIMITIVES:
        if not isinstance(value, _PRIMITIVES[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind}"
    else:
        model = getattr(client, kind)
        if not isinstance(value, dict):
            yield f"{where}: must be a {kind}"
            return
        attribute = {key: name for name, key in model.attribute_map.items()}
        for key in value.keys() - attribute.keys():
            yield f"{where}.{key}: unknown field of {kind}"
        known = {attribute[key]: item for key, item in value.items() if key in attribute}
        try:
            model(**known)
        except ValueError as error:
            yield f"{where}: {error}"
        for name, item in known.items():
            yield from differences(item, model.openapi_types[name], f"{where}.{name}")
