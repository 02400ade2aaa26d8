"""Registered versions whose weights are a few bytes."""

from pathlib import Path

from mlflow.tracking import MlflowClient

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.tracking.registry import WEIGHTS


def weights(folder: Path, version: int) -> Path:
    """The file that stands for a version's weights."""
    return folder / f"model{version}" / WEIGHTS


def register(client: MlflowClient, config: TrackingConfig, folder: Path, gate: str | None = "passed") -> int:
    """Make a new version, whose weights lie in the folder."""
    number = len(client.search_model_versions(f"name = '{config.model_name}'")) + 1
    file = weights(folder, number)
    file.parent.mkdir(parents=True)
    file.write_bytes(f"weights {number}".encode())
    tags = {"abs_rel_by_protocol": '{"garg": 0.25}', "weights_sha256": sha256_file(file), "data_digest": "d" * 64}
    if gate:
        tags |= {"gate": gate, "gate_reason": "it is worse"}
    made = client.create_model_version(config.model_name, file.parents[1].as_uri(), tags=tags)
    return int(made.version)
