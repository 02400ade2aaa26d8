"""Every command of the cluster guide is run as it stands, but for those that need a real cluster."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.follow import Pace
from tests.kfp_server import KfpServer, kfp_server
from tests.pipelines.kubeflow import cli

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/kubeflow.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```sh(?: ([\w-]+))?\n(.*?)^ *```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
DIGEST = "0123456789abcdef" * 4
PYTHON = "python -m pipelines "
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def lines(mark: str) -> list[str]:
    """Commands of the blocks with a mark."""
    return [line.strip() for known, block in BLOCKS if known == mark for line in block.splitlines()]


def words(line: str) -> list[str]:
    """Arguments of ``python -m pipelines``."""
    return shlex.split(line.removeprefix(PYTHON).replace("DIGEST", DIGEST))


def test_only_commands_of_other_programs_are_not_run() -> None:
    assert {mark for mark, _ in BLOCKS} == {"", "cluster", "export", "server"}
    assert {line.split()[0] for line in lines("cluster")} == {"kubectl", "argo"}
    assert "Commands of `kubectl` and `argo` need a cluster" in " ".join(GUIDE.split())
    assert len(lines("")) == 4
    assert all(line.startswith(f"{PYTHON}compile ") for line in lines(""))
    assert all(line.startswith(PYTHON) for line in lines("server"))


@pytest.mark.parametrize("line", lines(""))
def test_commands_do_what_the_guide_says(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = words(line)
    if "--out" in given:
        del given[given.index("--out") : given.index("--out") + 2]
    done = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "out.yaml")])
    assert done.exit_code == 0, done.output
    first, *_ = yaml.safe_load_all((tmp_path / "out.yaml").read_text(encoding="utf-8"))
    kind = "Workflow" if "--argo" in given else "Pipeline" if "--kubernetes-manifest" in given else None
    assert first.get("kind") == kind
    if kind is None:
        assert first["pipelineInfo"]["name"] == "simipu"


@pytest.fixture(params=[pytest.param("standalone", marks=pytest.mark.slow), "multi-user"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A server of one of the two ways, whose steps do nothing, in the environment that the guide sets."""
    for name in os.environ:
        if name.startswith(("KFP_", "KF_PIPELINES_")):
            monkeypatch.delenv(name)
    (tmp_path / "log").touch()
    (tmp_path / ".kfp-token").write_text("right")
    several = request.param == "multi-user"
    steps = {"PYTHONPATH": f"{ROOT / 'tests/pipelines/fakes'}:{ROOT}", "FAKE_LOG": str(tmp_path / "log")}
    with kfp_server(tmp_path / "kfp", {"simipu"} if several else None, steps) as served:
        served.is_ui, served.token = True, "right" if several else None
        alone, shared = lines("export")
        for word in shlex.split(shared if several else alone, comments=True)[1:]:
            name, _, value = word.partition("=")
            value = served.url if name == "KFP_ENDPOINT" else value.replace("~", str(tmp_path))
            monkeypatch.setenv(name, value)
        yield served


def without_disk(file: Path) -> str:
    """A copy of cluster.yaml whose steps get no folder on the node's disk, as this machine has none at its place."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    file.write_text(re.sub(r"\bscratch: \w+", "scratch: null", text), encoding="utf-8")
    return str(file)


def test_commands_for_a_server_do_what_the_guide_says(
    server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pipelines.follow.Pace", lambda: Pace(poll_s=0.2))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "scan.bin").write_bytes(b"scan")
    known = {"s3://BUCKET/kitti": str(tmp_path / "raw"), "cluster.yaml": without_disk(tmp_path / "cluster.yaml")}
    said = {}
    for line in lines("server"):
        given = [known.get(word, word) for word in words(line)]
        done = cli(*given)
        assert done.code == 0, (line, done.out, done.error)
        if given[0] in ("submit", "schedule"):
            known[{"submit": "RUN", "schedule": "SCHEDULE"}[given[0]]] = done.out.split()[1]
        said[" ".join(words(line)[:2])] = done.out
    order = ("configure", "ingest_pretrain", "pair_pretrain", "pretrain", "finetune", "evaluate")
    ended = re.findall(r"^(\w+) succeeded", said["submit --experiment"], flags=re.MULTILINE)
    assert [step for step in ended if step in order] == list(order)
    assert known["RUN"] in said["status"]
    assert all(re.search(rf"{step} +│ succeeded", said["status RUN"]) for step in order)
    assert "had ended already" in said["cancel RUN"]
    uploaded, scheduled = server.backend.versions.values()
    assert uploaded.pipeline_version_id in said["upload --experiment"]
    assert f"version {scheduled.display_name}" in said["schedule --experiment"]
    assert "0 30 3 * * 1" in said["schedules"]
    assert server.backend.recurring == {}
    (pipeline,) = server.backend.pipelines.values()
    (run,) = server.backend.runs.values()
    fields = run.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert run.runtime_config.parameters.keys() == fields.keys()
    assert pipeline.display_name == "simipu"
    assert pipeline.namespace == os.environ.get("KFP_NAMESPACE")


def test_the_fields_of_the_form_are_explained_in_their_order(tmp_path: Path) -> None:
    from pipelines.submission import pack
    from simipu_core.experiment import load_experiment
    from simipu_core.project import experiment_file

    package = pack(load_experiment(experiment_file("improved/kitti_kitti")))
    table = GUIDE[GUIDE.index("| field | write |") : GUIDE.index("Runs of `submit`")]
    cells = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(cells)) == sorted(package.parameters)


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
