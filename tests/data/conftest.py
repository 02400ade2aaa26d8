import shutil
from pathlib import Path

import pytest

from tests.worlds import synthesize


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of the test module's `CONFIG`."""
    out = tmp_path_factory.mktemp("made") / "world"
    synthesize(request.module.CONFIG, out, workers=0)
    return out


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(made, tmp_path / "raw")
    return tmp_path / "raw"
