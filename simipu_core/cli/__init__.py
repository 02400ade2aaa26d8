"""The command `simipu`."""

import typer

from simipu_core.cli import check, experiment, export, logs, models, predict, stages, weights
from simipu_core.errors import plain_errors
from simipu_core.termination import ended_by_signal

_HELP = """
Depth from single images, from cameras and LiDAR that drove together.

SimIPU pre-trains an image network on paired camera images and LiDAR scans, without labels; fine-tuning then makes
a depth network of it. The work has five steps, each of which reads what the one before it wrote:

**ingest** → **pair** → **pretrain** → **finetune** → **evaluate**

Run all of them with `make pipeline`, or one by one:

    simipu synthesize --out data/raw
    simipu ingest pretrain --out build/pair_frames
    simipu pair pretrain build/pair_frames --out build/pairs
    simipu pretrain build/pairs --out build/encoder
    simipu ingest depth --out build/frames
    simipu pair depth build/frames --out build/depth
    simipu finetune build/depth --encoder build/encoder --out build/net
    simipu evaluate build/net build/depth --out build/report

The network then tells the depth of your own pictures and videos:

    simipu predict build/net holiday.jpg drive.mp4

and runs without this package, in ONNX Runtime or TensorRT:

    simipu export build/net --out depth.onnx

`simipu` stands in .venv/bin; `source .venv/bin/activate` makes the short name work. `simipu STEP --help` explains each
step. Settings come from params.yaml or experiments/, and from --set.
"""

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _commands in (stages, predict, export, check, logs, experiment, models, weights):
    _commands.add_to(app)


def main() -> None:
    """Run the command; a problem the user can mend ends as one line on stderr and exit code 1."""
    with plain_errors(), ended_by_signal():
        app()
