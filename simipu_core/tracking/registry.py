"""The registered depth model: new versions and their promotion.

Aliases: `challenger` is the newest version, `champion` the one in use, `previous` the champion before it.
"""

import warnings
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from pydantic import BaseModel, ConfigDict

import simipu_core
from simipu_core.artifacts import code_revision, read_manifest
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.evaluation.report import Report
from simipu_core.tracking.mlflow_run import MlflowRun, connect, tracking_uri

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1))]),
)
_PACKAGE = Path(simipu_core.__file__).parent
_REQUIREMENTS = ("mlflow", "numpy", "opencv-python-headless", "pydantic", "pyyaml", "safetensors", "timm", "torch")


class ModelVersion(BaseModel):
    """A version in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    version: int
    alias: str


def register(run: MlflowRun, model: Path, report: Report, config: TrackingConfig, experiment: str) -> ModelVersion:
    """Store a depth net as a served model and register it as the newest version, alias `challenger`.

    The model is code and safetensors: nothing in it is loaded by pickle. It takes B×H×W×3 uint8 RGB images of any
    size and answers B×H×W float32 metres.

    Args:
        run: run that the model belongs to.
        model: artifact of kind "depth_net".
        report: its evaluation.
        config: names in the registry.
        experiment: name of the experiment.

    Raises:
        SimipuError: the artifact is not a whole depth net, or MLflow refuses.
    """
    manifest = read_manifest(model, "depth_net")
    info = _log_model(run, model / "model.safetensors")
    tags = {
        "experiment": experiment,
        "abs_rel": f"{report.abs_rel:.6g}",
        "protocol": report.headline,
        "model_digest": manifest.digest,
        "data_digest": report.data_digest,
        "code_revision": code_revision(),
        "licence": manifest.licence,
    }
    try:
        for protocol, scores in report.metrics.items():
            for metric, value in scores.items():
                run.client.log_metric(run.id, f"{protocol}/{metric}", value, model_id=info.model_id)
        if not run.client.search_registered_models(f"name = '{config.model_name}'"):
            run.client.create_registered_model(config.model_name)
        made = run.client.create_model_version(
            config.model_name, info.model_uri, run_id=run.id, tags=tags, model_id=info.model_id
        )
        run.client.set_registered_model_alias(config.model_name, CHALLENGER, made.version)
    except MlflowException as error:
        raise SimipuError(f"registering {config.model_name}: MLflow refused ({error.message}).") from None
    return ModelVersion(name=config.model_name, version=int(made.version), alias=CHALLENGER)


def _log_model(run: MlflowRun, weights: Path) -> ModelInfo:
    mlflow.set_tracking_uri(tracking_uri())
    with warnings.catch_warnings(), mlflow.start_run(run_id=run.id):
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)  # it has a signature
        info: ModelInfo = mlflow.pyfunc.log_model(
            name="depth",
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"weights": str(weights)},
            code_paths=[str(_PACKAGE)],
            signature=_SIGNATURE,
            pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )
    return info


def promote(version: int, config: TrackingConfig) -> ModelVersion:
    """Make a version the champion; the former champion becomes `previous`.

    Args:
        version: number of the registered version.
        config: names in the registry.

    Raises:
        SimipuError: there is no such model or version.
    """
    client = connect()
    try:
        client.get_model_version(config.model_name, str(version))
    except MlflowException:
        raise SimipuError(
            f"{config.model_name} has no version {version}; `make mlflow` shows the registered versions."
        ) from None
    former = _version_of(client, config.model_name, CHAMPION)
    if former not in (None, version):
        client.set_registered_model_alias(config.model_name, PREVIOUS, str(former))
    client.set_registered_model_alias(config.model_name, CHAMPION, str(version))
    return ModelVersion(name=config.model_name, version=version, alias=CHAMPION)


def _version_of(client: MlflowClient, name: str, alias: str) -> int | None:
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None


def aliases(version: ModelVersion) -> str:
    """The aliases that a version has now, as text; empty when it has none or was deleted."""
    client = connect()
    try:
        return ", ".join(sorted(client.get_model_version(version.name, str(version.version)).aliases))
    except MlflowException:
        return ""
