"""The command line as a user of Kubeflow has it, within this process."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from pipelines.__main__ import app
from simipu_core.errors import SimipuError

ROOT = Path(__file__).parents[2]
SCRATCH = ("--experiment", str(ROOT / "params.yaml"), "--set", "finetune.init=kaiming_zero_gamma")
"""The demo without pre-training: four steps."""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


Cli = Callable[..., Done]


def cli(*arguments: str) -> Done:
    """Run ``python -m pipelines …``; errors for people end it as they do there."""
    done = CliRunner().invoke(app, list(arguments))
    if isinstance(done.exception, SimipuError):
        return Done(1, done.stdout, f"{done.stderr}error: {done.exception}")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def alive(pid: int) -> bool:
    """Whether a process works; one that has ended but was not yet waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
