"""Where things are: the project's folder, its experiment files, its checkpoints, its cache of downloads."""

import os
from difflib import get_close_matches
from pathlib import Path

from simipu_core import addresses
from simipu_core.errors import SimipuError

PARAMS = "params.yaml"


def root() -> Path:
    """The nearest folder, from the current one upwards, that holds ``params.yaml``; else the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / PARAMS).is_file()), here)


def experiment_file(name: str) -> Path:
    """Find an experiment by file or by name: ``demo`` is ``params.yaml``, others are ``experiments/NAME.yaml``.

    Args:
        name: file, or name with its folders, e.g. ``reference/kitti_kitti``.

    Raises:
        SimipuError: there is no such experiment; the message lists the ready ones.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = root() / "experiments"
    found = root() / PARAMS if name == "demo" else folder / f"{name}.yaml"
    if not found.is_file():
        if name == "demo":
            mend = "start in the project's folder, or give an experiment by its file (--experiment FILE)."
            raise SimipuError(f"experiment demo: there is no {found}; {mend}")
        near = get_close_matches(name, experiments(), n=3)
        mend = f"did you mean {' or '.join(near)}?" if near else f"ready ones are {', '.join(experiments())}."
        raise SimipuError(f"experiment {name}: there is no {found}; {mend}")
    return found


def experiments() -> list[str]:
    """Names of the ready experiments, those of ``experiments/common/`` apart, which others include."""
    folder = root() / "experiments"
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return ["demo", *(name for name in names if not name.startswith("common/"))]


def checkpoints() -> str | Path:
    """Where checkpoints lie, which must outlive the step: ``SIMIPU_CHECKPOINTS``, or build/checkpoints.

    Returns:
        a folder, or an address ``s3://bucket/prefix``.

    Raises:
        SimipuError: it is an address of another storage.
    """
    place = addresses.plain(os.environ.get("SIMIPU_CHECKPOINTS", ""))
    return place.rstrip("/") if place.startswith(addresses.S3) else Path(place or root() / "build" / "checkpoints")


def cache() -> Path:
    """Where downloads are kept: ``SIMIPU_CACHE``, or build/cache."""
    return Path(os.environ.get("SIMIPU_CACHE") or root() / "build" / "cache").absolute()
