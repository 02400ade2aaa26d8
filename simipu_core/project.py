"""Where things are: the project's folder, its experiment files, its checkpoints."""

import os
from pathlib import Path

from simipu_core.errors import SimipuError

PARAMS = "params.yaml"


def root() -> Path:
    """The nearest folder, from the current one upwards, that holds ``params.yaml``; else the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / PARAMS).is_file()), here)


def experiment_file(name: str) -> Path:
    """Find an experiment by file or by name: ``demo`` is ``params.yaml``, others are ``experiments/NAME.yaml``.

    Raises:
        SimipuError: there is no such experiment; the message lists the ready ones.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = root() / "experiments"
    found = root() / PARAMS if name == "demo" else folder / f"{name}.yaml"
    if not found.is_file():
        ready = ", ".join(["demo", *sorted(path.stem for path in folder.glob("*.yaml"))])
        raise SimipuError(f"experiment {name}: there is no {found}; ready ones are {ready}.")
    return found


def checkpoints() -> Path:
    """Folder of checkpoints, which must outlive the step: ``SIMIPU_CHECKPOINTS``, or build/checkpoints."""
    return Path(os.environ.get("SIMIPU_CHECKPOINTS") or root() / "build" / "checkpoints")
