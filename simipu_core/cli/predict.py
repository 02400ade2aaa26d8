"""The command that tells the depth of one's own pictures."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simipu_core.cli.options import local_place

if TYPE_CHECKING:
    from simipu_core.prediction.intrinsics import Intrinsics
    from simipu_core.prediction.run import Outcome

_KINDS = ("colour", "png", "npy", "ply", "video", "parquet")
_SHOWN = 20
"""Broken inputs that are named; of more the number is told."""


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Weights file, folder that `simipu finetune` wrote, or a version in the registry: "
        "`models:/simipu-depth@champion`, `models:/simipu-depth/3`.",
        show_default=False,
    ),
]


class Precision(StrEnum):
    """Number formats of networks."""

    FP32 = "fp32"
    BF16 = "bf16"


def _kinds(values: list[str]) -> list[str]:
    kinds = [kind for value in values for kind in value.split(",") if kind]
    if not kinds or (unknown := [kind for kind in kinds if kind not in _KINDS]):
        raise typer.BadParameter(f"{unknown[0] if kinds else 'nothing'}: choose among {', '.join(_KINDS)}.")
    return kinds


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value}: write auto, cpu, cuda, or cuda:1 for the second GPU.")
    return value


def predict(
    model: ModelArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT…",
            help="Pictures (.png, .jpg), folders of them, quoted globs, videos (.mp4, …), a catalogue or shards, "
            "or `-` for a picture on standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", parser=local_place, help="Folder to write below.")
    ] = Path("build/predictions"),
    save: Annotated[
        list[str],
        typer.Option(
            metavar="KIND",
            callback=_kinds,
            help="What to write; may be repeated, or several with commas. `colour`: picture with a legend (turbo, "
            "logarithmic from 1 m to the network's largest depth) · `png`: 16 bits, metres = value / 256, 0 = no "
            "answer · `npy`: float32 metres · `ply`: coloured point cloud, where intrinsics are known · `video`: "
            "picture and depth side by side, of videos · `parquet`: all in one table.",
        ),
    ] = ["colour", "png"],  # noqa: B006 (Typer's form of a default)
    intrinsics: Annotated[
        str | None,
        typer.Option(
            metavar="FX,FY,CX,CY|FILE",
            help="Of the camera, in pixels of the pictures: numbers, a JSON file with these keys, or a "
            "calibration.yaml of own logs (`FILE#CAMERA` where it has several). Depths are scaled to its focal length. "
            "Catalogues and shards bring their own.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(callback=_device, metavar="NAME", help="auto (the GPU where there is one), cpu, cuda, cuda:1."),
    ] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Number format of the network; bf16 is faster on GPUs and less exact.")
    ] = Precision.FP32,
    flip: Annotated[
        bool,
        typer.Option(
            help="Average with the prediction of the mirrored picture, as evaluation does; without: twice as fast."
        ),
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that the network sees at once.")] = 4,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write what is there again; without, only what is missing is made.")
    ] = False,
) -> None:
    """Tell the depth of your own pictures and videos, in metres.

    Pictures of any size are scaled to what the network was trained for, and its answer back. Depths are metric only if
    the focal length is known: give --intrinsics. A stopped run goes on when it is started again. Pictures that cannot
    be read are skipped and named at the end, with exit code 1.

    Example: `simipu predict build/net drive.mp4 photos --save colour,png,video --intrinsics 721.5,721.5,609.6,172.9`
    """
    camera = _intrinsics(intrinsics) if intrinsics else None
    from simipu_core.prediction.inputs import find
    from simipu_core.prediction.outputs import Save
    from simipu_core.prediction.predictor import load
    from simipu_core.prediction.run import predict_all

    sources = find(inputs, out)
    outcome = predict_all(
        load(model, device=device, precision=precision.value),
        sources,
        out,
        [Save(kind) for kind in save],
        intrinsics=camera,
        flip=flip,
        batch_size=batch_size,
        overwrite=overwrite,
        warn=lambda note: print(f"warning: {note}", file=sys.stderr),
    )
    _report(outcome, out, save)
    if outcome.broken:
        raise typer.Exit(1)


def _intrinsics(value: str) -> "Intrinsics":
    from simipu_core.errors import SimipuError
    from simipu_core.prediction.intrinsics import Intrinsics, read_intrinsics

    if not re.fullmatch(r"[\s\d.,eE+-]+", value):
        return read_intrinsics(value)
    try:
        return Intrinsics.of([float(number) for number in value.split(",")])
    except (ValueError, SimipuError):
        raise typer.BadParameter(
            f"{value}: write FX,FY,CX,CY in pixels, as in 721.5,721.5,609.6,172.9.", param_hint="--intrinsics"
        ) from None


def _report(outcome: "Outcome", out: Path, kinds: list[str]) -> None:
    rate = f" at {outcome.predicted / outcome.seconds:.3g} frames/s" if outcome.predicted else ""
    kept = f" · {outcome.kept} were there" if outcome.kept else ""
    print(f"{out}: {', '.join(kinds)} of {outcome.predicted} frames{rate}{kept}")
    if "ply" in kinds and outcome.unknown:
        print(f"  no ply of {outcome.unknown} frames: their intrinsics are not known; give --intrinsics")
    for each in outcome.broken[:_SHOWN]:
        print(f"  skipped: {each.source}: {each.reason}", file=sys.stderr)
    if len(outcome.broken) > _SHOWN:
        print(f"  and {len(outcome.broken) - _SHOWN} more were skipped", file=sys.stderr)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Steps, in order")(predict)
