"""Content-addressed raw data: the same frames always have the same address, so that cached steps can be trusted."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipelines import processes
from pipelines.rows import Rows, as_rows, roots
from simipu_core import project, storage
from simipu_core.config import FinetuneConfig, ImageEncoderConfig
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.stages.configure import DATA_FIELDS

DVC_OUTPUT = "data/raw"
_CONFLICT = re.compile(r"^(<{7}|>{7})( |$)", re.MULTILINE)
StartT = TypeVar("StartT", FinetuneConfig, ImageEncoderConfig)


def raw_uris(rows: Rows) -> dict[str, Any]:
    """Addresses of the raw frames, by pipeline parameter.

    One experiment has `data_depth` and, where it pre-trains, `data_pretrain`; a sweep has `data`, by root.

    Frames under data/raw are first made, or fetched from DVC's cache, as ``dvc.yaml`` says, and pushed to the DVC
    remote; the address is that of the version in ``dvc.lock``. A root with a pointer beside it (``data/kitti.dvc``,
    from ``dvc add`` or ``dvc import-url``) has the version that the pointer names, and is pushed likewise. Other
    folders, local or in S3, are addressed by their content, which for S3 means by the listing.

    Args:
        rows: `pretrain_data.root` and `depth_data.root` of an experiment, or of each one of a sweep, are read.

    Raises:
        SimipuError: a folder is missing or empty, or DVC or S3 fails.
    """
    rows = as_rows(rows)
    known = {root: _address(root, rows) for root in dict.fromkeys(root for row in rows for root in roots(row).values())}
    if len(rows) > 1:
        return {"data": known}
    return {DATA_FIELDS[section]: known[root] for section, root in roots(rows[0]).items()}


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


def _address(root: str, rows: Sequence[Experiment]) -> str:
    folder = storage.place(root).absolute()
    if not isinstance(folder, storage.S3Path):
        if folder == project.root() / DVC_OUTPUT:
            for row in rows:
                if root in roots(row).values():
                    _check_world(row)
            _check_merged(project.root() / "dvc.lock")
            _dvc("repro", "--quiet", "raw")
            return _pushed(folder, "raw")
        if (pointer := folder.with_name(f"{folder.name}.dvc")).is_file():
            _check_merged(pointer)
            return _pushed(folder, str(pointer))
    return storage.pin(folder)


def _check_world(experiment: Experiment) -> None:
    if experiment.synthetic != load_experiment(project.root() / project.PARAMS).synthetic:
        raise SimipuError(
            f"synthetic: differs from {project.PARAMS}, from which {DVC_OUTPUT} is made; change it there, or render "
            "your own with `simipu synthesize --out FOLDER` and run with DATA=FOLDER."
        )


def _pushed(folder: Path, target: str) -> str:
    """Address of a folder's version in the remote; of one that was imported without a copy, that of its source."""
    _dvc("push", "--quiet", target)
    from dvc import api  # takes a second
    from dvc.exceptions import DvcException

    try:
        address: str = api.get_url(os.path.relpath(folder, project.root()), repo=str(project.root()))
    except DvcException as error:
        raise SimipuError(f"{folder}: DVC does not know where it lies ({error}); mend that and run again.") from None
    try:
        storage.place(address)
    except SimipuError as error:
        raise SimipuError(f"{error} It is in DVC's remote, of which a local folder and S3 are read.") from None
    return address if address.endswith(".dir") else storage.pin(storage.place(address))


def _check_merged(file: Path) -> None:
    if file.is_file() and _CONFLICT.search(file.read_text(encoding="utf-8", errors="replace")):
        raise SimipuError(f"{file}: holds the marks of a merge that is not finished (<<<<<<<); choose one side.")


def _dvc(*arguments: str) -> None:
    tools = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "dvc", *arguments]
    if processes.run(command, folder=project.root(), environment=environment):
        raise SimipuError(f"dvc {' '.join(arguments)} failed (see the lines above); mend it and run again.")
