from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of one sqlite store for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'store' / 'mlflow.db'}"


@pytest.fixture
def store(database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store is in use; no run is open around the test. Returns its folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    for name in ("MLFLOW_RUN_ID", "SIMIPU_PARENT_RUN_ID", "SIMIPU_PIPELINE_RUN", "SIMIPU_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    return Path(database.removeprefix("sqlite:///")).parent
