"""Commands about weights files: what they are, from and to other programs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simipu_core.cli.options import OutOption, local_place, report

if TYPE_CHECKING:
    from simipu_core.models.foreign import EncoderWeights


class Layout(StrEnum):
    """Whose tensor names."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    OPENMMLAB = "openmmlab"
    SIMIPU = "simipu"


class Input(StrEnum):
    """Input conventions of published weights."""

    IMAGENET = "imagenet"
    SIMIPU = "simipu"


FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        parser=local_place,
        help="Weights: .safetensors, or .pth or .pt (only plain tensors are read), or a folder that `simipu pretrain` "
        "or `simipu finetune` wrote. Recognised: SimIPU (`img_backbone.*`), OpenMMLab (`backbone.*`), torchvision and "
        "timm (bare names).",
        show_default=False,
    ),
]

app = typer.Typer(
    help="Image encoders in files: show what they are, import foreign ones, export ours.\n\n"
    "Reading is strict: all tensors of a ResNet (318 of ResNet-50) are found, or none is used.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def show(file: FileArgument) -> None:
    """Say which encoder a file holds, under whose names, and what its input must look like.

    Example: `simipu weights show resnet50-0676ba61.pth`
    """
    found = _read(file)
    source = "stated by the file" if found.is_stated else "usual for its layout"
    input_ = "unknown: neither the file nor its layout tells"
    if found.input:
        input_ = f"{found.input.channels}, mean {found.input.mean}, std {found.input.std} ({source})"
    counters = "" if found.has_counters else "; BatchNorm's counters are absent and taken as 0"
    print(f"layout        {found.layout}")
    print(f"architecture  {found.name}, BatchNorm epsilon {found.norm_eps:g} ({source})")
    print(f"tensors       {len(found.tensors)} of the encoder, {found.num_others} others{counters}")
    print(f"input         {input_}")


@app.command("import")
def import_(
    file: FileArgument,
    out: OutOption,
    input: Annotated[  # noqa: A002 (the option's name)
        Input | None,
        typer.Option(
            help="What the weights were made on, where the file does not tell or is taken for something else: "
            "`imagenet` is RGB with ImageNet's mean and deviation, `simipu` is BGR minus the mean.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make an encoder folder of foreign weights, for `simipu finetune --encoder`.

    Example: `simipu weights import SimIPU_kitti_50e.pth --out build/released`
    """
    found = _read(file)
    from simipu_core.artifacts import read_manifest, sha256_file, write_artifact
    from simipu_core.errors import SimipuError
    from simipu_core.models.foreign import CONVENTIONS
    from simipu_core.models.weights import EncoderSpec, save_tensors

    convention = CONVENTIONS[input] if input else found.input
    if convention is None:
        raise SimipuError(f"{file}: does not tell what it was made on; state it with --input imagenet or simipu.")
    spec = EncoderSpec(name=found.name, norm_eps=found.norm_eps, input=convention)
    with write_artifact(
        out,
        "encoder",
        inputs={"weights": sha256_file(_weights_file(file))},
        parameters={"file": file.name, "layout": found.layout, "spec": spec.model_dump(mode="json")},
        licence=f"that of {file.name}",
    ) as draft:
        save_tensors(found.tensors, draft.path / "encoder.safetensors", spec)
        draft.counts.update(tensors=len(found.tensors))
    report(read_manifest(out), out)


@app.command()
def export(
    file: FileArgument,
    layout: Annotated[Layout, typer.Option(help="Whose tensor names to write.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=local_place,
            help="File to write, .safetensors, .pth or .pt; must be new.",
        ),
    ],
) -> None:
    """Write an encoder for another program.

    torchvision: give the model `fc = nn.Identity()`, then load strictly. timm: `num_classes=0`.
    OpenMMLab: `init_cfg=dict(type="Pretrained", checkpoint=FILE, prefix="backbone.")`; without the prefix nothing
    would load, and nothing would say so.

    Example: `simipu weights export build/encoder --layout openmmlab --out encoder.pth`
    """
    found = _read(file)
    from simipu_core.models.foreign import write_encoder

    write_encoder(found, layout.value, out)
    print(f"{out}: {layout} layout, {len(found.tensors)} tensors")


def _read(path: Path) -> "EncoderWeights":
    from simipu_core.models.foreign import read_encoder

    return read_encoder(_weights_file(path))


def _weights_file(path: Path) -> Path:
    """The file, also inside the folder of a step."""
    if not path.is_dir():
        return path
    from simipu_core.artifacts import read_manifest

    kind = read_manifest(path, "encoder", "depth_net").kind
    return path / ("encoder.safetensors" if kind == "encoder" else "model.safetensors")


def add_to(parent: typer.Typer) -> None:
    """Add these commands."""
    parent.add_typer(app, name="weights", rich_help_panel="Settings, results and models")
