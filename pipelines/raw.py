"""Content-addressed raw data: the same frames always have the same address, so that cached steps can be trusted."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from simipu_core import project, storage
from simipu_core.config import Experiment, FinetuneConfig, ImageEncoderConfig, load_experiment
from simipu_core.errors import SimipuError

DVC_OUTPUT = "data/raw"
StartT = TypeVar("StartT", FinetuneConfig, ImageEncoderConfig)


def raw_uris(experiment: Experiment) -> dict[str, str]:
    """Addresses of the raw frames, by pipeline parameter: `depth_uri` and, where there is pre-training, `pretrain_uri`.

    Frames under data/raw are first made, or fetched from DVC's cache, as ``dvc.yaml`` says, and pushed to the DVC
    remote; the address is that of the version in ``dvc.lock``. Other folders are addressed by their content.

    Args:
        experiment: its `pretrain_data.root` and `depth_data.root` are read.

    Raises:
        SimipuError: a folder is missing or empty, or DVC fails.
    """
    roots = {"depth_uri": experiment.depth_data.root}
    if experiment.finetune.needs_pretraining:
        roots["pretrain_uri"] = experiment.pretrain_data.root
    known = {
        root: _tracked(experiment) if _is_tracked(root) else storage.pin(Path(root))
        for root in dict.fromkeys(roots.values())
    }
    return {parameter: known[root] for parameter, root in roots.items()}


def with_pinned_weights(experiment: Experiment) -> Experiment:
    """The experiment with its weights files (`init_file`) addressed by content, like its frames.

    Raises:
        SimipuError: such a file is missing.
    """
    finetune, pretrain = experiment.finetune, experiment.pretrain
    if finetune.needs_pretraining:
        pretrain = pretrain.model_copy(update={"image_encoder": _pinned(pretrain.image_encoder)})
    return experiment.model_copy(update={"finetune": _pinned(finetune), "pretrain": pretrain})


def _pinned(section: StartT) -> StartT:
    if section.init_file is None or section.init not in ("imagenet", "checkpoint"):
        return section
    from simipu_core.models.initialise import pin  # takes seconds

    return section.model_copy(update={"init_file": pin(section.init_file)})


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
