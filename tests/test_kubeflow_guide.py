"""Every command of the cluster guide is run as it stands, or marked as needing a cluster."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.__main__ import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/kubeflow.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```sh( cluster)?\n(.*?)^ *```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
HERE = [line for mark, block in BLOCKS if not mark for line in block.splitlines()]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_commands_that_are_not_run_are_marked() -> None:
    marked = [line.strip() for mark, block in BLOCKS if mark for line in block.splitlines()]
    assert len(HERE) == 4
    assert all(line.startswith("python -m pipelines compile ") for line in HERE)
    for line in marked:
        assert line.split()[0] in ("kubectl", "argo") or line.startswith("python -m pipelines s")
    assert len(re.findall(r"(?i)needs a cluster", GUIDE)) > sum(bool(mark) for mark, _ in BLOCKS)


@pytest.mark.parametrize("line", HERE)
def test_commands_do_what_the_guide_says(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line.replace("DIGEST", "0123456789abcdef" * 4))[3:]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out.yaml")])
    assert done.exit_code == 0, done.output
    first, *_ = yaml.safe_load_all((tmp_path / "out.yaml").read_text(encoding="utf-8"))
    kind = "Workflow" if "--argo" in words else "Pipeline" if "--kubernetes-manifest" in words else None
    assert first.get("kind") == kind
    if kind is None:
        assert first["pipelineInfo"]["name"] == "simipu"


def test_files_and_settings_that_the_guide_names_exist() -> None:
    from pipelines.cluster import Cluster, StepSettings

    for name in re.findall(r"`((?:deploy|pipelines)/[\w/.-]+)`", GUIDE):
        assert (ROOT / name).exists(), name
    for key in ("shm", "scratch", "timeout", "retry", "tolerations", "gpus", "memory_limit"):
        assert f"`{key}" in GUIDE or f".{key}" in GUIDE
        assert key in StepSettings.model_fields
    for key in ("keep_finished", "allow_revision_tag", "pull_secrets", "run_as"):
        assert key in GUIDE
        assert key in Cluster.model_fields
