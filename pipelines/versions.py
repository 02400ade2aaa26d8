"""Versions of Kubeflow Pipelines, and what the older ones do not understand of a compiled pipeline.

A server parses strictly: it refuses a pipeline with a field that it does not know, and drops without a word a document
of platform settings with one, and with it secrets, volumes, node selectors and time-outs of all steps. So what a server
does not know is left out before it is sent, and said.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from pipelines.submission import Package

OLDEST = (2, 15)
"""Whose servers understand secrets and config maps that may be missing."""
ORPHANS = (2, 16)
"""From here on a schedule can be deleted without the runs that it has started."""

Version = tuple[int, int]


class Lack(NamedTuple):
    """Something that servers know from a version on."""

    since: Version
    sentence: str
    """What an older one does instead."""
    remove: Callable[[list[Any]], bool]
    """Take it out of the compiled documents; whether there was any."""


def parse(text: str) -> Version | None:
    """Major and minor number of a version; None where it is no release, as of a server built from a branch."""
    found = re.match(r"v?(\d+)\.(\d+)\b", text)
    return (int(found[1]), int(found[2])) if found else None


def label(version: Version) -> str:
    """As people write it."""
    return ".".join(map(str, version))


def fitted(package: Package, version: Version | None) -> tuple[Package, list[str]]:
    """The package as a server of this version understands it, and a sentence for all that it lacks there.

    Args:
        package: compiled pipeline.
        version: of the server; None, as it does not tell, counts as the oldest.
    """
    documents = list(yaml.safe_load_all(package.text))
    lacks = [lack for lack in _LACKS if (version or OLDEST) < lack.since and lack.remove(documents)]
    if not lacks:
        return package, []
    server = f"Kubeflow Pipelines {label(version)}" if version else "A server that does not tell its version"
    said = [f"{server}: {lack.sentence} (as of {label(lack.since)} it is known)." for lack in lacks]
    return Package(yaml.safe_dump_all(documents)), said


def _without_lifetimes(documents: list[Any]) -> bool:
    found = False
    for platform in _platforms(documents):
        config = platform.get("pipelineConfig", {})
        known = {key: value for key, value in config.items() if key not in _NEW_CONFIG}
        found |= len(known) < len(config)
        if known:
            platform["pipelineConfig"] = known
        else:
            platform.pop("pipelineConfig", None)
    return found


_NEW_CONFIG = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure", "activeDeadlineSeconds")


def _without_literals(documents: list[Any]) -> bool:
    pipeline = documents[0]
    found = False
    for component in (pipeline["root"], *pipeline.get("components", {}).values()):
        for parameter in component.get("inputDefinitions", {}).get("parameters", {}).values():
            found |= parameter.pop("literals", None) is not None
    return found


def _without_user(documents: list[Any]) -> bool:
    found = False
    for platform in _platforms(documents):
        for executor in platform.get("deploymentSpec", {}).get("executors", {}).values():
            found |= executor.pop("securityContext", None) is not None
    return found


def _platforms(documents: list[Any]) -> Iterator[dict[str, Any]]:
    for document in documents[1:]:
        yield from document.get("platforms", {}).values()


_LACKS = (
    Lack((2, 17), "keep_finished is left out, so its own times hold, an hour by default", _without_lifetimes),
    Lack((2, 16), "the form offers no choices, values are typed", _without_literals),
    Lack((2, 16), "run_as is left out, so steps run as the user of their image", _without_user),
)
