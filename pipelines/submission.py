"""What a cluster is given: the compiled pipeline, the addresses of its data, and names that tell where it came from."""

import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.cluster import Cluster
from pipelines.rows import Rows, as_rows, title, uris
from simipu_core.artifacts import code_revision, sha256_text
from simipu_core.errors import SimipuError


class Package(NamedTuple):
    """A compiled pipeline."""

    text: str
    """IR YAML: the pipeline and, where there are settings of the platform, a second document with them."""

    @property
    def digest(self) -> str:
        """Hex sha256 of the text."""
        return sha256_text(self.text)

    @property
    def specification(self) -> dict[str, Any]:
        """The same as the API takes it within a request."""
        documents = list(yaml.safe_load_all(self.text))
        return documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}

    @property
    def parameters(self) -> dict[str, Any]:
        """The pipeline's parameters by name: ``defaultValue`` is missing where a run has to give one."""
        (pipeline, *_) = yaml.safe_load_all(self.text)
        declared: dict[str, Any] = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        return declared


def pack(rows: Rows, cache: bool = True, cluster: Cluster | None = None) -> Package:
    """Compile a pipeline, with its weights files addressed by content.

    Args:
        rows: what to run, one experiment or a sweep.
        cache: False has every step run, whatever has been computed before.
        cluster: where the steps run; without it they have no resources, secrets or retries.

    Raises:
        SimipuError: a weights file is missing or the image is not pinned.
    """
    from pipelines.package import write
    from pipelines.raw import with_pinned_weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        pinned = [with_pinned_weights(row) for row in as_rows(rows)]
        write(pinned, file, cluster)
        text = file.read_text(encoding="utf-8")
    return Package(text if cache else _uncached(text))


def _uncached(text: str) -> str:
    documents = list(yaml.safe_load_all(text))
    parts = [documents[0]["root"], *documents[0]["components"].values()]
    for part in parts:
        for task in part.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return yaml.safe_dump_all(documents)


def data_addresses(rows: Rows, package: Package) -> dict[str, Any]:
    """The run's parameters: the version that the raw data has now, for every address that the pipeline asks for.

    Raises:
        SimipuError: the data is missing, or the pipeline asks for something else too.
    """
    from pipelines.raw import raw_uris

    declared = package.parameters
    addresses = {name: uri for name, uri in raw_uris(rows).items() if name in declared}
    missing = sorted(
        name
        for name, given in declared.items()
        if name not in addresses and "defaultValue" not in given and not given.get("isOptional")
    )
    if missing:
        raise SimipuError(f"the pipeline needs {', '.join(missing)}, which {title(rows)} does not give.")
    return addresses


def local_addresses(addresses: dict[str, Any]) -> list[str]:
    """Those that name a folder rather than object storage: every pod must see that folder at the same path."""
    return sorted({uri.split("#")[0] for uri in uris(addresses) if "://" not in uri})


def run_name(rows: Rows) -> str:
    """A name for a run: experiment, revision, time in UTC."""
    return f"{title(rows)} {code_revision()[:8]} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def version_name(rows: Rows) -> str:
    """A name for a version of the pipeline, fit for a Kubernetes resource: experiment and revision."""
    name = f"{title(rows)}-{code_revision()[:12]}{'-dirty' if code_revision().endswith('+dirty') else ''}"
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_CRON_RANGES = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of a month", 1, 31),
    ("month", 1, 12),
    ("day of a week", 0, 7),
)
_CRON_FIELD = re.compile(r"[\d*/,\-?LW#]+|[\dA-Za-z*/,\-?#]*[A-Za-z]{3}[\dA-Za-z*/,\-?#]*")


def interval_seconds(text: str) -> int:
    """Seconds of an interval such as ``45m``, ``6h``, ``1d``.

    Raises:
        SimipuError: it is none.
    """
    match = re.fullmatch(r"([1-9]\d*)([smhdw])", text.strip())
    if match is None:
        raise SimipuError(f"--every: {text} is no interval; write e.g. 45m, 6h, 1d or 2w.")
    return int(match[1]) * _UNITS[match[2]]


def cron_expression(text: str) -> str:
    """A cron expression as Kubeflow takes it, with seconds first; five fields, as in crontab, get second 0.

    Raises:
        SimipuError: it has another number of fields, or characters that no cron expression has.
    """
    fields = text.split()
    if len(fields) not in (5, 6) or not all(_CRON_FIELD.fullmatch(field) for field in fields):
        raise SimipuError(
            f'--cron: {text} is no cron expression; write minute, hour, day, month, weekday, e.g. "30 3 * * 1", or '
            "seconds before them."
        )
    fields = fields if len(fields) == 6 else ["0", *fields]
    for field, (unit, low, high) in zip(fields, _CRON_RANGES, strict=True):
        values = [int(number) for number in re.findall(r"(?<![/\d#])\d+", field)]
        if outside := [value for value in values if not low <= value <= high]:
            raise SimipuError(f"--cron: {text}: {outside[0]} is no {unit}; write {low} to {high}.")
    return " ".join(fields)
