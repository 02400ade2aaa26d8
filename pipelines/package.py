"""The compiled pipeline."""

from pathlib import Path

import yaml
from kfp.compiler import Compiler

from pipelines.dag import build
from simipu_core.config import Experiment


def write(experiment: Experiment, file: Path) -> None:
    """Compile to Kubeflow IR YAML; the same experiment, code and image give the same bytes.

    Args:
        experiment: its settings become the parameters' defaults.
        file: file to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial.yaml")
    Compiler().compile(build(experiment), str(partial))
    documents = list(yaml.safe_load_all(partial.read_text(encoding="utf-8")))
    partial.write_text(yaml.safe_dump_all(documents), encoding="utf-8")  # without comments, whose order varies
    partial.replace(file)
