import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.argo import workflow
from pipelines.cluster import load_cluster
from pipelines.package import write_argo
from simipu_core import project
from simipu_core.cli import app
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from tests.kubernetes_schema import differences

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/simipu@sha256:" + "0123456789abcdef" * 4
DATA_IMAGE = IMAGE.replace("simipu@", "simipu-data@")
CLUSTER = load_cluster(ROOT / "cluster.yaml", IMAGE, DATA_IMAGE)
NAMES = [f"{name}.yaml" for name in project.experiments() if name != "demo"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def load(name: str) -> Experiment:
    return load_experiment(ROOT / "experiments" / name)


def made(*names: str) -> dict[str, Any]:
    return workflow([load(name) for name in names], CLUSTER)


def templates(resource: dict[str, Any]) -> dict[str, Any]:
    return {template["name"]: template for template in resource["spec"]["templates"] if "container" in template}


@cache
def schema() -> Any:
    from hera.workflows import models

    return models.Workflow


@pytest.mark.parametrize("name", NAMES)
def test_every_workflow_is_one_by_argos_schema(name: str) -> None:
    resource = made(name)
    read = schema().model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read == resource  # a field that the schema does not know would be lost
    for template in templates(resource).values():
        assert list(differences({"name": "main", **template["container"]}, "V1Container", template["name"])) == []
        assert list(differences(template["volumes"], "list[V1Volume]", template["name"])) == []
        assert list(differences(template.get("tolerations", []), "list[V1Toleration]", template["name"])) == []


def test_the_schema_would_not_let_a_misspelt_field_pass() -> None:
    resource = made("improved/kitti_kitti.yaml")
    resource["spec"]["ttlStrategie"] = {}
    assert schema().model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True) != resource
    assert list(differences({"name": "main", "imagePolicy": "x"}, "V1Container", "step")) == [
        "step.imagePolicy: unknown field of V1Container"
    ]


def test_names_and_references_fit_each_other() -> None:
    resource = made("improved/kitti_kitti.yaml", "improved/kitti_nyu.yaml")
    tasks = {task["name"]: task for task in resource["spec"]["templates"][0]["dag"]["tasks"]}
    steps = templates(resource)
    assert tasks.keys() == steps.keys()
    assert sum(name.startswith("pretrain") for name in tasks) == 1
    for name, task in tasks.items():
        artifacts = task.get("arguments", {}).get("artifacts", [])
        taken = {artifact["name"] for artifact in steps[name]["inputs"]["artifacts"]} - {"settings"}
        assert {artifact["name"] for artifact in artifacts} == taken
        for artifact in artifacts:
            _, above, _, _, output = artifact["from"].strip("{}").split(".")
            assert above in task["dependencies"]
            assert [given["name"] for given in steps[above]["outputs"]["artifacts"]] == [output]
    parameters = {parameter["name"] for parameter in resource["spec"]["arguments"]["parameters"]}
    text = yaml.safe_dump(resource)
    for name in parameters - {"model_name", "promotion"}:  # Argo's steps do not register
        assert f"{{{{workflow.parameters.{name}}}}}" in text


def test_steps_without_torch_run_in_the_smaller_image() -> None:
    for name, template in templates(made("improved/kitti_kitti.yaml")).items():
        expected = DATA_IMAGE if name.startswith(("ingest", "pair")) else IMAGE
        assert template["container"]["image"] == expected
        assert {"name": "SIMIPU_IMAGE", "value": expected} in template["container"]["env"]


def test_several_nodes_are_refused() -> None:
    several = CLUSTER.model_copy(update={"steps": {**CLUSTER.steps, "pretrain": {"nodes": 2}}})
    with pytest.raises(SimipuError, match=r"steps\.pretrain\.nodes: only Kubeflow's pipelines"):
        workflow([load("improved/kitti_kitti.yaml")], several)


def test_training_on_several_gpus_goes_through_torchrun() -> None:
    steps = templates(made("improved/kitti_kitti.yaml"))
    assert steps["pretrain"]["container"]["command"] == [
        *("python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8", "--no-python", "simipu")
    ]
    assert steps["pretrain"]["container"]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert steps["pair-depth"]["container"]["command"] == ["simipu"]
    assert steps["pretrain"]["retryStrategy"]["retryPolicy"] == "Always"  # lost nodes too


def fill(words: list[str], resource: dict[str, Any], tmp_path: Path, settings: str) -> list[str]:
    given = {name: name for name in ("depth_uri", "pretrain_uri")}
    given |= {p["name"]: p["value"] for p in resource["spec"]["arguments"]["parameters"] if "value" in p}
    text = shlex.join(words)
    for name, value in given.items():
        text = text.replace(f"{{{{workflow.parameters.{name}}}}}", value)
    (tmp_path / "experiment.yaml").write_text(settings)
    for folder in ("inputs", "outputs"):
        text = text.replace(f"/{folder}/", f"{tmp_path}/{folder}/")
    return shlex.split(text.replace("/settings/experiment.yaml", f"{tmp_path}/experiment.yaml"))


@pytest.mark.parametrize("name", ["improved/kitti_kitti.yaml", "kitti_sample.yaml", "improved/scratch_nyu.yaml"])
def test_the_steps_commands_are_ones_that_simipu_takes(name: str, tmp_path: Path) -> None:
    """Each stops only at its first input, which is not there: options, settings and their values are accepted."""
    resource = made(name)
    for step, template in templates(resource).items():
        settings = template["inputs"]["artifacts"][0]["raw"]["data"]
        words = fill(template["container"]["args"], resource, tmp_path, settings)
        done = CliRunner().invoke(app, [*words, *([] if words[0] == "table" else ["--no-track"])])
        message = str(done.exception)
        missing = "no such folder" if words[0] == "ingest" else "not an artifact (no manifest.json)"
        assert missing in message, f"{step}: {message} {done.output}"


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    write_argo([load("improved/kitti_kitti.yaml")], tmp_path / "flow.yaml", CLUSTER)
    (read,) = yaml.safe_load_all((tmp_path / "flow.yaml").read_text())
    assert read == made("improved/kitti_kitti.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["flow.yaml"]
