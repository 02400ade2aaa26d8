"""The command that writes a network for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simipu_core.cli.options import local_place
from simipu_core.cli.predict import ModelArgument
from simipu_core.errors import SimipuError

_SUFFIXES = {"onnx": ".onnx", "program": ".pt2"}


class Format(StrEnum):
    """What is written."""

    ONNX = "onnx"
    PROGRAM = "program"


def export(
    model: ModelArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=local_place,
            help="File to write; one that is there is replaced. By default build/depth.onnx or build/depth.pt2.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 (the option's name)
        Format,
        typer.Option(
            help="`onnx`: for ONNX Runtime, TensorRT and others; needs the packages of `simipu[export]` · `program`: "
            "of torch.export (.pt2), for PyTorch without this package."
        ),
    ] = Format.ONNX,
    half: Annotated[
        bool, typer.Option("--half", help="Compute and store the network in float16; for GPUs, and half the size.")
    ] = False,
    opset: Annotated[int, typer.Option(metavar="NUMBER", help="Version of ONNX's operators, 18 to 23.")] = 18,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT",
            help="Pictures, a folder of them or shards, on whose first four frames the file is compared with PyTorch; "
            "may be repeated. By default made-up pictures.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the network as one file for ONNX Runtime, TensorRT or plain PyTorch.

    Pixels go in as they are, uint8 RGB, batch × 3 × height × width; metres come out as float32, batch × height × width.
    Batch, height and width are free, from 33 pixels on. What the file is stands in its metadata: input and output, the
    largest depth, the cameras of the training, digest of the weights, licence.

    The file is compared with PyTorch before it is written, and refused where a depth differs by more than 0.025 % of
    the largest one (1 % with --half).

    Example: `simipu export models:/simipu-depth@champion --out depth.onnx --check build/depth`
    """
    from simipu_core.prediction import export as exporting

    file = out or Path("build/depth").with_suffix(_SUFFIXES[format])
    if file.suffix != _SUFFIXES[format]:
        raise SimipuError(f"{file}: --format {format} writes {_SUFFIXES[format]}; give another --out or --format.")
    done = exporting.export(model, file, format=format.value, half=half, opset=opset, check=check or ())
    words = [format.value, f"opset {opset}"] if format is Format.ONNX else [format.value]
    print(f"{file}: {', '.join([*words, done.metadata['precision']])}, {done.size / 1e6:.1f} MB")
    print(
        f"  differs from PyTorch by at most {done.error:.2g} m on {done.pictures} pictures "
        f"(refused beyond {done.bound:.2g} m)"
    )
    crop, scale = done.metadata["crop"], done.metadata["input_scale"]
    if (crop, scale) != ("none", "1"):
        print(f"  show it frames as it was trained on: crop {crop}, then shrunk by {scale} (docs/export.md)")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Steps, in order")(export)
