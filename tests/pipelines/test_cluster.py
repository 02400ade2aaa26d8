import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import COMPONENTS, Cluster, load_cluster
from simipu_core.config import validate
from simipu_core.errors import SimipuError

ROOT = Path(__file__).parents[2]
DIGEST = "registry.example/simipu@sha256:" + "0123456789abcdef" * 4


def cluster(**values: Any) -> Cluster:
    return validate(Cluster, values, "cluster.yaml")


def test_the_example_is_in_order() -> None:
    example = load_cluster(ROOT / "cluster.yaml")
    pretrain = example.step("pretrain")
    assert (pretrain.gpus, pretrain.shm, pretrain.timeout) == (8, "128Gi", 5 * 86400)
    assert pretrain.retry.within == 14 * 86400
    assert example.step("configure").gpus == example.step("pair").gpus == 0
    assert example.step("pair").scratch == "200Gi"
    assert example.step("ingest").scratch == "50Gi"  # from the defaults


def test_a_secret_goes_to_the_steps_that_it_names_or_to_all() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "access-key"}
    one = cluster(secrets=[{"name": "all", "keys": keys}])
    assert all([source.name for source in one.secrets_of(step)] == ["all"] for step in COMPONENTS)
    read = {"name": "read", "keys": keys, "steps": ["ingest", "pair"]}
    write = {"name": "write", "keys": keys, "steps": ["pretrain", "finetune"]}
    split = cluster(secrets=[read, write])
    assert [source.name for source in split.secrets_of("pair")] == ["read"]
    assert [source.name for source in split.secrets_of("finetune")] == ["write"]
    assert split.secrets_of("evaluate") == []
    with pytest.raises(SimipuError, match="AWS_ACCESS_KEY_ID is given twice to pair"):
        cluster(secrets=[read, {**write, "steps": ["pair"]}])
    with pytest.raises(SimipuError, match=r"secrets\.0\.steps\.0"):
        cluster(secrets=[{**read, "steps": ["pairs"]}])


def test_without_any_setting_steps_with_loaders_have_shared_memory_and_training_a_gpu() -> None:
    plain = Cluster()
    assert [plain.step(name).gpus for name in ("ingest", "pair", "pretrain", "finetune", "evaluate")] == [0, 0, 1, 1, 1]
    for name in ("ingest", "pair", "pretrain", "finetune", "evaluate"):
        assert plain.step(name).shm
        assert plain.step(name).retry.within > plain.step(name).timeout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgae": "x"}, "unknown key `imgae`"),
        ({"steps": {"train": {}}}, "`steps.train"),
        ({"steps": {"pretrain": {"gpu": 2}}}, "^cluster.yaml: unknown key `steps.pretrain.gpu`"),
        ({"defaults": {"cpus": 2}}, "^cluster.yaml: unknown key `defaults.cpus`"),
        ({"steps": {"pretrain": {"shm": "64Gi"}}}, "shm 64Gi must be smaller than memory_limit 64Gi"),
        (
            {"steps": {"pair": {"memory_request": "64Gi"}}},
            "^cluster.yaml: `steps.pair`: memory_request 64Gi exceeds memory_limit 16Gi",
        ),
        ({"steps": {"pair": {"cpu_request": "many"}}}, "^cluster.yaml: `steps.pair.cpu_request`: String should match"),
        ({"steps": {"pretrain": {"timeout": "9d"}}}, r"retry.within \(604800 s\) must exceed timeout"),
        ({"steps": {"pretrain": {"timeout": "soon"}}}, "^cluster.yaml: `steps.pretrain.timeout`: Input should be"),
        (
            {"defaults": {"retry": {"factor": 1.5}}},
            r"^cluster.yaml: `defaults.retry.factor`: Input should be a valid integer",
        ),
        ({"steps": {"pair": {"tolerations": [{"key": "a", "value": "b"}]}}}, "operator Equal and a value go together"),
        (
            {"steps": {"pair": {"retry": {"factor": 1.5}}}},
            r"`steps.pair.retry.factor`: Input should be a valid integer",
        ),
        ({"steps": {"evaluate": {"nodes": 2}}}, "only pretrain and finetune can use more than one node"),
        ({"steps": {"pretrain": {"nodes": 2}}}, "^cluster.yaml: steps.pretrain.nodes: name SIMIPU_CHECKPOINTS"),
        ({"defaults": {"gpus": 1}}, "not every step needs a GPU"),
        ({"run_as": {"user": 0}}, "run_as.user"),
        ({"secrets": [{"name": "Bad_Name", "keys": {"A": "b"}}]}, "secrets.0.name"),
        ({"secrets": [{"name": "x", "keys": {"A": "k", "B": "k"}}]}, "two variables have one key"),
        (
            {"environment": {"A": "1"}, "config_maps": [{"name": "x", "keys": {"A": "k"}}]},
            "A is given twice to configure, and Kubernetes refuses such a pod: name it in one place only",
        ),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "x"}},
            "^cluster.yaml: environment.AWS_SECRET_ACCESS_KEY is .*: put it into one and name that under secrets",
        ),
        ({"environment": {"AWS_SESSION_TOKEN": "x"}}, "AWS_SESSION_TOKEN is a secret"),
        ({"environment": {"HF_TOKEN": "x"}}, "HF_TOKEN is a secret"),
        ({"environment": {"DB_PASSWORD": "x"}}, "DB_PASSWORD is a secret"),
        ({"environment": {"MLFLOW_TRACKING_URI": "http://ada:hunter2@h"}}, "MLFLOW_TRACKING_URI holds a login"),
        ({"environment": {"HTTPS_PROXY": "http://ada:p/w@h"}}, "HTTPS_PROXY holds a login"),
        ({"environment": {"HTTPS_PROXY": "ada:hunter2@proxy:3128"}}, "HTTPS_PROXY holds a login"),
        ({"environment": {"DSN": "host=db password=hunter2"}}, "DSN holds a login"),
        ({"environment": {"X": "Bearer hunter2hunter2"}}, "X holds a login"),
        ({"data": {"data/kitti": "s3://key:hunter2@bucket/x"}}, "data/kitti holds a login"),
        ({"data": {"data/kitti": "s3://b/x?X-Amz-Signature=hunter2"}}, "data/kitti holds a login"),
        ({"environment": {"A": "{{workflow.name}}"}}, "`environment.A`: holds {{, which Argo or Kubernetes would"),
        ({"environment": {"A": "a$(AWS_SECRET_ACCESS_KEY)"}}, r"`environment.A`: holds \$\(, which Argo or Kubernetes"),
        ({"data": {"x": "s3://{{workflow.name}}"}}, "`data.x`: holds {{"),
        ({"labels": {"pipeline/runid": "x"}}, "label pipeline/runid is set by Kubeflow or Argo"),
        ({"defaults": {"labels": {"workflows.argoproj.io/workflow": "x"}}}, "is set by Kubeflow or Argo"),
        ({"environment": {"SIMIPU_PIPELINE_RUN": "x"}}, "SIMIPU_PIPELINE_RUN is set by the pipeline"),
        ({"environment": {"PET_NNODES": "3"}}, "PET_NNODES is set by the pipeline or by Kubeflow Trainer"),
        (
            {"config_maps": [{"name": "m", "keys": {"TMPDIR": "v"}}]},
            "TMPDIR is set by the pipeline, which only environ",
        ),
        ({"secrets": [{"name": "m", "keys": {"SIMIPU_STEP": "v"}}]}, "SIMIPU_STEP is set by the pipeline"),
        ({"defaults": {"scratch": "1000K"}}, "`defaults.scratch`: Kubernetes knows no K; write Ki"),
        ({"steps": {"pair": {"retry": {"factor": 10**400}}}}, "`steps.pair.retry.factor`: Input should be"),
        ({"steps": {"pair": {"retry": {"factor": 1000000000}}}}, "`steps.pair.retry.factor`: Input should be less"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SimipuError, match=message) as caught:
        cluster(**values)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namespace", "x\ny"),
        ("namespace", "{{workflow.name}}"),
        ("service_account", "$(A)"),
        ("pull_secrets", [""]),
        ("environment", {"": "x"}),
        ("environment", {"A=B": "x"}),
        ("labels", {"a b": "y"}),
        ("labels", {"a": "y z\n"}),
        ("labels", {"a": "{{workflow.name}}"}),
        ("labels", {"a": "x" * 64}),
        ("run_as", {"user": 2**40}),
        ("config_maps", [{"name": "x..y", "keys": {"A": "a"}}]),
        ("config_maps", [{"name": "x", "keys": {"A": "a b"}}]),
        ("training_runtime", {"name": "{{x}}"}),
        ("keep_finished", "１h"),
        ("steps.pair.scratch", "１Gi"),
        ("steps.pair.cpu_request", "１"),
        ("steps.pair.gpu_resource", "memory"),
        ("steps.pair.gpu_resource", "nvidia.com/{{x}}"),
        ("steps.pair.node_selector", {"a": "b c"}),
        ("steps.pair.tolerations", [{"key": "a b"}]),
    ],
)
def test_what_kubernetes_refuses_is_refused_by_its_key(key: str, value: Any) -> None:
    first, *deeper = key.split(".")
    for part in reversed(deeper):
        value = {part: value}
    with pytest.raises(SimipuError, match=rf"^cluster\.yaml: `{key}"):
        cluster(**{first: value})


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match=r"cluster.yaml: no such file; copy"):
        load_cluster(tmp_path / "cluster.yaml")
    (tmp_path / "cluster.yaml").write_text("image: [")
    with pytest.raises(SimipuError, match="not readable as YAML"):
        load_cluster(tmp_path / "cluster.yaml")


def test_images_are_pinned() -> None:
    assert cluster(image=DIGEST).image_of("pretrain") == DIGEST
    assert cluster(image="r/simipu:6b71439", allow_revision_tag=True).image_of("pair") == "r/simipu:6b71439"
    for moving in ("r/simipu", "r/simipu:latest", "r/simipu:6b71439", "r/simipu@sha256:00"):
        with pytest.raises(SimipuError, match=r"its tag can be moved.*name@sha256:…\)\.$"):
            cluster(image=moving).image_of("pretrain")
        with pytest.raises(SimipuError, match=rf"image {moving}: its tag can be moved"):
            cluster(image=DIGEST, data_image=moving).image_of("ingest")
    with pytest.raises(SimipuError, match="or by a git revision's tag"):
        cluster(image="r/simipu:latest", allow_revision_tag=True).image_of("pretrain")
    with pytest.raises(SimipuError, match="no image: give --image"):
        Cluster().image_of("pretrain")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None), ("file", "file-data")),
        (("own", None), ("own", "own")),
        (("own", "own-data"), ("own", "own-data")),
        ((None, "own-data"), ("file", "own-data")),
    ],
)
def test_images_that_are_given_come_before_those_of_the_file(
    given: tuple[str | None, str | None], expected: tuple[str, str], tmp_path: Path
) -> None:
    def pinned(name: str | None) -> str | None:
        return name and DIGEST.replace("@", f"-{name}@")

    file = tmp_path / "cluster.yaml"
    file.write_text(f"image: {pinned('file')}\ndata_image: {pinned('file-data')}\n")
    loaded = load_cluster(file, *map(pinned, given))
    assert (loaded.image_of("evaluate"), loaded.image_of("pair")) == tuple(map(pinned, expected))


def test_the_command_refuses_a_moving_tag_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "compile", "--cluster", "cluster.yaml", "--image", "r/simipu:latest"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command += ["--out", str(tmp_path / "pipeline.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: image r/simipu:latest: its tag can be moved")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_example_says_all_it_needs() -> None:
    """Every key of the example that people fill in is one of the model's, and no value is secret."""
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert set(values) <= set(Cluster.model_fields)
    assert all(source.keys() <= {"name", "keys", "steps", "optional"} for source in values["secrets"])
