"""The registered depth model: its versions.

Aliases: `challenger` is the newest version, `champion` the one in use, `previous` the champion before it.
"""

import base64
import json
import os
import warnings
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from pydantic import BaseModel, ConfigDict

from simipu_core.artifacts import code_revision, read_manifest, sha256_file, sha256_text
from simipu_core.config import TrackingConfig
from simipu_core.data.images import encode_png
from simipu_core.evaluation.report import Report
from simipu_core.files import temporary_folder
from simipu_core.tracking.card import model_card
from simipu_core.tracking.delivery import with_retries
from simipu_core.tracking.mlflow_run import MlflowRun, connect, mlflow_errors

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
WEIGHTS = "artifacts/model.safetensors"
"""Where the weights lie in a registered version."""
GATE_TAG, REASON_TAG, OUTCOME_TAG = "gate", "gate_reason", "outcome"
EVALUATION_TAG = "evaluation"
"""Digest of what was evaluated, by whom and with which scores: one evaluation has one version."""
PASSED, FAILED = "passed", "failed"
CARD = "model_card.md"

_SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "image", required=False),
            # else MLflow looks at each number, which takes seconds a picture
            ColSpec(AnyType(), "pixels", required=False),  # type: ignore[no-untyped-call]
        ]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.string, "depth"),
            ColSpec(DataType.string, "encoding"),
            ColSpec(DataType.long, "height"),
            ColSpec(DataType.long, "width"),
            ColSpec(DataType.double, "scale"),
            ColSpec(DataType.string, "note"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("encoding", DataType.string, "png"),
            ParamSpec("intrinsics", DataType.double, [], shape=(-1,)),
            ParamSpec("flip", DataType.boolean, True),
        ]
    ),
)
"""What `prediction/serving.py` takes and answers."""
_PACKAGE = Path(__file__).parents[1]
_DESCRIPTION_LENGTH = 5000
_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "timm",
    "torch",
)


class ModelVersion(BaseModel):
    """A version in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    version: int
    alias: str


def register(
    run: MlflowRun,
    model: Path,
    report: Report,
    config: TrackingConfig,
    experiment: str,
    *,
    evaluation: str | None = None,
) -> ModelVersion:
    """Store a depth net as a served model and register it as the newest version, alias `challenger`.

    A version that an interrupted step registered for the same evaluation, with the same scores, is taken as it is.

    The model is code and safetensors: nothing in it is loaded by pickle. What it takes and answers is in
    `simipu_core/prediction/serving.py`. A model card is stored with it, and with the run, and is its description.

    Args:
        run: run that the model belongs to.
        model: artifact of kind "depth_net".
        report: its evaluation, with the gate's decision.
        config: names in the registry.
        experiment: name of the experiment.
        evaluation: names the evaluation, for those who repeat it; the run by default.

    Raises:
        SimipuError: the artifact is not a whole depth net, or MLflow does not answer or refuses.
    """
    manifest = read_manifest(model, "depth_net")
    card = model_card(model, report, experiment)
    tags = {
        "experiment": experiment,
        "abs_rel": f"{report.abs_rel:.6g}",
        "abs_rel_by_protocol": json.dumps(
            {name: round(scores["abs_rel"], 6) for name, scores in report.metrics.items()}
        ),
        "protocol": report.headline,
        "model_digest": manifest.digest,
        "weights_sha256": sha256_file(model / "model.safetensors"),
        "data_digest": report.data_digest,
        "code_revision": code_revision(),
        "licence": manifest.licence,
    }
    tags[EVALUATION_TAG] = sha256_text(json.dumps([evaluation or run.id, tags], sort_keys=True))
    if image := os.environ.get("SIMIPU_IMAGE"):
        tags["image"] = image
    if report.decision:
        tags |= {GATE_TAG: PASSED if report.decision.passed else FAILED, REASON_TAG: report.decision.reason}
    name, client = config.model_name, run.client
    with mlflow_errors():
        if already := client.search_model_versions(
            f"name = '{name}' and tags.{EVALUATION_TAG} = '{tags[EVALUATION_TAG]}'"
        ):
            version = already[0].version
            for key in (GATE_TAG, REASON_TAG):
                if key in tags:
                    with_retries(client.set_model_version_tag, name, version, key, tags[key])
            _set_challenger(client, name)
            return ModelVersion(name=name, version=int(version), alias=CHALLENGER)
    with mlflow_errors(), temporary_folder("card") as folder:
        (card_file := folder / CARD).write_text(card, encoding="utf-8")
        client.log_artifact(run.id, str(card_file))
        info = _log_model(run, model / "model.safetensors", card_file)
        for protocol, scores in report.metrics.items():
            run.log_metrics({f"{protocol}/{metric}": value for metric, value in scores.items()}, model_id=info.model_id)
        make_model(client, name)
        made = client.create_model_version(
            name,
            info.model_uri,
            run_id=run.id,
            tags=tags,
            model_id=info.model_id,
            description=_shortened(card),
        )
        _set_challenger(client, name)
    return ModelVersion(name=name, version=int(made.version), alias=CHALLENGER)


def set_outcome(run: MlflowRun, version: ModelVersion, outcome: str) -> None:
    """Record with a version and its run what the gate decided and what was done.

    Raises:
        SimipuError: MLflow does not answer or refuses.
    """
    with mlflow_errors():
        run.client.set_model_version_tag(version.name, str(version.version), OUTCOME_TAG, outcome)
    run.log_tags({"simipu.promotion": outcome, "simipu.model_version": f"{version.name} {version.version}"})


def _log_model(run: MlflowRun, weights: Path, card: Path) -> ModelInfo:
    """Log without making the run MLflow's active one: ending that would end a run that Kubeflow is to end."""
    mlflow.set_experiment(experiment_id=run.experiment_id)  # else MLflow puts the model into its Default
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
        info: ModelInfo = Model.log(
            None,
            mlflow.pyfunc,
            name="depth",
            run_id=run.id,
            flavor_name="pyfunc.ModelFromCode",
            python_model=str(_PACKAGE / "prediction" / "serving.py"),
            artifacts={"weights": str(weights), "card": str(card)},
            code_paths=[str(_PACKAGE)],
            signature=_SIGNATURE,
            input_example=(_example(), {"encoding": "png", "intrinsics": [60.0, 60.0, 48.0, 32.0], "flip": True}),
            pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in _REQUIREMENTS],
        )
    return info


def _example() -> pd.DataFrame:
    """A request with one small picture."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    picture = np.repeat(np.tile(ramp, (64, 1))[..., None], 3, axis=2)
    return pd.DataFrame({"image": [base64.b64encode(encode_png(picture)).decode("ascii")]})


def make_model(client: MlflowClient, name: str) -> None:
    """Make a registered model, unless it is there.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    try:
        client.get_registered_model(name)
    except MlflowException:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was faster
                raise


def _set_challenger(client: MlflowClient, name: str) -> None:
    """Give the newest version the alias, again while newer ones come."""
    newest = 0
    while (found := _newest(client, name)) != newest:
        newest = found
        with_retries(client.set_registered_model_alias, name, CHALLENGER, str(newest))


def _newest(client: MlflowClient, name: str) -> int:
    found = client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
    return int(found[0].version)


def _shortened(card: str) -> str:
    """The card within what MLflow's database holds of a description."""
    if len(card) <= _DESCRIPTION_LENGTH:
        return card
    rest = f"\n\n… the rest is in {CARD} of the run."
    return card[: _DESCRIPTION_LENGTH - len(rest)] + rest


def aliases(version: ModelVersion) -> str:
    """The aliases that a version has now, as text; empty when it has none or was deleted."""
    client = connect()
    try:
        return ", ".join(sorted(client.get_model_version(version.name, str(version.version)).aliases))
    except MlflowException:
        return ""
