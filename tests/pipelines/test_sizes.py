"""What Kubeflow keeps of a run must fit its store."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import load_cluster
from pipelines.package import write, write_manifest
from pipelines.simipu import MOST_STEPS
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.stages.configure import sections
from tests.kfp_size import LARGEST, Size, size

ROOT = Path(__file__).parents[2]
CLUSTER = load_cluster(ROOT / "cluster.yaml", f"registry.example/simipu@sha256:{'0123456789abcdef' * 4}")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def compiled(rows: Sequence[Experiment], folder: Path) -> tuple[int, Size]:
    """Number of the steps, and the size of the workflow."""
    write(rows, folder / "sweep.yaml", CLUSTER)
    documents: list[Any] = list(yaml.load_all((folder / "sweep.yaml").read_text(), yaml.CSafeLoader))
    tasks = documents[0]["root"]["dag"]["tasks"]
    configures = [key for key, task in tasks.items() if task["taskInfo"]["name"].startswith("configure")]
    values = {
        (key, name): value for key, row in zip(configures, rows, strict=True) for name, value in sections(row).items()
    }
    scores = {(key, "scores"): {"abs_rel": 0.1, "name": "x" * 250} for key in tasks}
    return len(tasks), size(documents, values | scores)


def test_a_run_of_the_eight_full_size_rows_fits(tmp_path: Path) -> None:
    rows = [load_experiment(file) for file in sorted((ROOT / "experiments/improved").glob("*.yaml"))]
    steps, found = compiled(rows, tmp_path)
    assert steps == 35
    assert found.whole > LARGEST  # so its nodes are compressed
    assert found.stored < 0.7 * LARGEST


@pytest.mark.slow
def test_the_eight_rows_as_a_version_in_git_fit_any_way_to_apply_them(tmp_path: Path) -> None:
    """What `kubectl apply` notes without `--server-side` takes 256 KiB, a whole object 1.5 MiB."""
    rows = [load_experiment(file) for file in sorted((ROOT / "experiments/improved").glob("*.yaml"))]
    write_manifest(rows, tmp_path / "manifest.yaml", CLUSTER)
    _, version = yaml.load_all((tmp_path / "manifest.yaml").read_text(), yaml.CSafeLoader)
    assert len(json.dumps(version)) < 2**18


def alone(number: int) -> list[Experiment]:
    """Experiments that have no step in common: eight steps each."""
    file = ROOT / "experiments/improved/kitti_kitti.yaml"
    changes = ["experiment=row_{0}", "seed={0}", "pretrain_data.root=a/{0}", "depth_data.root=b/{0}"]
    return [load_experiment(file, [change.format(row) for change in changes]) for row in range(number)]


@pytest.mark.slow
def test_the_longest_sweep_fits(tmp_path: Path) -> None:
    steps, found = compiled(alone(6), tmp_path)
    assert steps <= MOST_STEPS < steps + 8
    assert found.stored * MOST_STEPS / steps < LARGEST
    with pytest.raises(SimipuError, match=rf"has \d+ steps, and Kubeflow keeps {MOST_STEPS}"):
        compiled(alone(7), tmp_path)
