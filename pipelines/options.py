"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
