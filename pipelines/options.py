"""Options that several commands share."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.rows import roots
from simipu_core import project
from simipu_core.cli.options import load
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment

if TYPE_CHECKING:
    from pipelines.cluster import Cluster

Runner = Literal["process", "docker"]
ClusterOption = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="cluster.yaml: where the steps run and with what.")
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image",
        envvar="SIMIPU_IMAGE",
        metavar="NAME@sha256:…",
        help="With --cluster: image of all steps, by digest.",
    ),
]
DataImageOption = Annotated[
    str | None,
    typer.Option(
        "--data-image",
        envvar="SIMIPU_DATA_IMAGE",
        metavar="NAME@sha256:…",
        help="With --cluster: smaller image of configure, ingest and pair, by digest.",
    ),
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="FOLDER|NAME|FILE",
        help="Several experiments as one pipeline: a folder of experiments/, e.g. `improved`, or single ones; may be "
        "repeated. Comes in place of --experiment.",
    ),
]


def placed(cluster: Path | None, image: str | None, data_image: str | None) -> "Cluster | None":
    """Where the steps run, as the options say."""
    if cluster is None:
        for option, given in (("--image", image), ("--data-image", data_image)):
            if given and given != os.environ.get(f"SIMIPU_{option[2:].replace('-', '_').upper()}"):
                raise SimipuError(f"{option}: goes with --cluster FILE, which says where steps run; give that too.")
        return None
    from pipelines.cluster import load_cluster  # takes a second

    return load_cluster(cluster, image, data_image)


def chosen(
    experiment: str, overrides: list[str] | None, *, sweep: list[str] | None = None, data: str | None = None
) -> list[Experiment]:
    """The experiment, or those of the sweep; a folder's are in the order of their names.

    Args:
        experiment: name or file.
        overrides: KEY=VALUE settings, which come after those that `data` makes.
        sweep: folders of experiments/, names or files, in place of `experiment`.
        data: where the raw frames lie, instead of the experiments' own roots.
    """
    names = []
    for name in sweep or [experiment]:
        folder = project.root() / "experiments" / name
        inside = sorted(path for path in folder.glob("*.yaml")) if sweep else []
        names += [str(path) for path in inside] or [name]
    text = json.dumps(data, ensure_ascii=False)  # as settings are YAML, where a bare text may mean something else
    given = [f"pretrain_data.root={text}", f"depth_data.root={text}"] if data else []
    rows = [load(name, [*given, *(overrides or [])]) for name in names]
    if data and len(own := _roots([load(name, overrides) for name in names])) > 1:
        print(f"note: {data} is taken for all of {', '.join(own)}", file=sys.stderr)
    return rows


def _roots(rows: list[Experiment]) -> list[str]:
    return sorted({root for row in rows for root in roots(row).values()})
