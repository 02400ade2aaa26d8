"""Content-addressed raw data: the same frames always have the same address, so that cached steps can be trusted."""

import os
import subprocess
import sys
from pathlib import Path

from simipu_core import project, storage
from simipu_core.config import Experiment, load_experiment
from simipu_core.errors import SimipuError

DVC_OUTPUT = "data/raw"


def raw_uris(experiment: Experiment) -> tuple[str, str]:
    """Addresses of the pre-training and the depth frames.

    Frames under data/raw are first made, or fetched from DVC's cache, as ``dvc.yaml`` says, and pushed to the DVC
    remote; the address is that of the version in ``dvc.lock``. Other folders are addressed by their content.

    Args:
        experiment: its `pretrain_data.root` and `depth_data.root` are read.

    Raises:
        SimipuError: a folder is missing or empty, or DVC fails.
    """
    roots = (experiment.pretrain_data.root, experiment.depth_data.root)
    known: dict[str, str] = {}
    for root in roots:
        if root not in known:
            known[root] = _tracked(experiment) if _is_tracked(root) else storage.pin(Path(root))
    return known[roots[0]], known[roots[1]]


def _is_tracked(root: str) -> bool:
    return "://" not in root and Path(root).absolute() == project.root() / DVC_OUTPUT


def _tracked(experiment: Experiment) -> str:
    if experiment.synthetic != load_experiment(project.root() / project.PARAMS).synthetic:
        raise SimipuError(
            f"synthetic: differs from {project.PARAMS}, from which {DVC_OUTPUT} is made; change it there, or render "
            "your own with `simipu synthesize --out FOLDER` and run with DATA=FOLDER."
        )
    _dvc("repro", "--quiet", "raw")
    _dvc("push", "--quiet", "raw")
    from dvc import api  # takes a second

    address: str = api.get_url(DVC_OUTPUT, repo=str(project.root()))
    return address


def _dvc(*arguments: str) -> None:
    tools = str(Path(sys.executable).parent)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project.root(),
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"},
        check=False,
    )
    if done.returncode:
        raise SimipuError(f"dvc {' '.join(arguments)} failed (see the lines above); mend it and run again.")
