import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import Cluster, load_cluster
from pipelines.package import write_argo
from simipu_core import project
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from tests.kubernetes_schema import differences
from tests.pod_security import violations

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/simipu@sha256:" + "0123456789abcdef" * 4
DATA_IMAGE = IMAGE.replace("simipu@", "simipu-data@")
CLUSTER = load_cluster(ROOT / "cluster.yaml", IMAGE, DATA_IMAGE)
NAMES = [name for name in project.experiments() if name != "demo"]
FAST = {"improved/kitti_kitti", "reference/scratch_nyu", "own_logs"}
"""Of every shape one; the others compile for minutes in all."""
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def load(name: str) -> Experiment:
    return load_experiment(ROOT / "experiments" / name)


def made(*names: str, cluster: Cluster = CLUSTER) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_argo([load(name) for name in names], Path(folder) / "flow.yaml", cluster)
        (read,) = yaml.safe_load_all((Path(folder) / "flow.yaml").read_text(encoding="utf-8"))
    return dict(read)


def templates(resource: dict[str, Any]) -> dict[str, Any]:
    return {template["name"]: template for template in resource["spec"]["templates"] if "container" in template}


@cache
def schema() -> Any:
    from hera.workflows import models

    return models.Workflow


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NAMES])
def test_every_workflow_is_one_by_argos_schema(name: str) -> None:
    resource = made(f"{name}.yaml")
    read = schema().model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read == resource  # a field that the schema does not know would be lost
    context = resource["spec"]["securityContext"]
    for template in templates(resource).values():
        assert list(differences({"name": "main", **template["container"]}, "V1Container", template["name"])) == []
        assert list(differences(template["volumes"], "list[V1Volume]", template["name"])) == []
        assert list(differences(template.get("tolerations", []), "list[V1Toleration]", template["name"])) == []
        main = {"name": "main", **template["container"]}
        spec = {"securityContext": context, "containers": [main], "volumes": template["volumes"]}
        assert violations({"spec": spec}) == []
        assert main["securityContext"]["readOnlyRootFilesystem"]
        assert {"/tmp", "/outputs"} <= {mount["mountPath"] for mount in main["volumeMounts"]}


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
        given = task.get("arguments", {})
        inputs = steps[name]["inputs"]
        for kind in ("artifacts", "parameters"):
            assert {one["name"] for one in given.get(kind, [])} == {one["name"] for one in inputs[kind]}
        references = [one["from"] for one in given.get("artifacts", [])]
        references += [one["value"] for one in given.get("parameters", [])]
        for reference in references:
            _, above, _, kind, output = reference.strip("{}").split(".")
            assert above in task["dependencies"]
            assert output in [one["name"] for one in steps[above]["outputs"][kind]]
        assert all((one["mode"], one["recurseMode"]) == (0o755, True) for one in inputs["artifacts"])
    parameters = {parameter["name"] for parameter in resource["spec"]["arguments"]["parameters"]}
    assert parameters == {"data", "settings"}
    text = json.dumps(resource["spec"]["templates"])
    assert "{{workflow.parameters.data}}" in text
    assert "{{=toJson(workflow.parameters['settings'])}}" in text


def test_finished_workflows_are_kept_as_long_as_the_file_says() -> None:
    spec = made("kitti_sample.yaml")["spec"]
    assert spec["ttlStrategy"] == dict.fromkeys(
        ("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure"), 7 * 86400
    )  # a controller may have shorter ones for success and failure, which come first


@pytest.mark.parametrize(("chosen", "expected"), [({}, "simipu"), ({"service_account": None}, None)])
def test_pods_have_the_account_that_the_manifests_make(chosen: dict[str, Any], expected: str | None) -> None:
    spec = made("kitti_sample.yaml", cluster=CLUSTER.model_copy(update=chosen))["spec"]
    assert spec.get("serviceAccountName") == expected
    assert spec.get("executor", {}).get("serviceAccountName") == expected  # only Argo's container gets its token
    assert spec.get("automountServiceAccountToken") is (False if expected else None)


def test_each_step_has_the_secrets_of_its_role() -> None:
    for name, template in templates(made("kitti_sample.yaml")).items():
        sources = [variable.get("valueFrom", {}) for variable in template["container"]["env"]]
        given = {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
        role = "data" if name.startswith(("ingest", "pair")) else "training"
        stores = {f"simipu-{role}-store", "simipu-mlflow"}
        assert given == {"configure": set(), "evaluate": {"simipu-mlflow-evaluate"}}.get(name, stores)


def test_the_promotion_is_chosen_from_its_values() -> None:
    arguments = made("improved/kitti_kitti.yaml")["spec"]["arguments"]["parameters"]
    (promotion,) = [one for one in arguments if one["name"] == "promotion"]
    assert (promotion["value"], promotion["enum"]) == ("report", ["off", "report", "promote"])


def test_steps_without_torch_run_in_the_smaller_image() -> None:
    for name, template in templates(made("improved/kitti_kitti.yaml")).items():
        expected = DATA_IMAGE if name.startswith(("configure", "ingest", "pair")) else IMAGE
        assert template["container"]["image"] == expected
        assert {"name": "SIMIPU_IMAGE", "value": expected} in template["container"]["env"]


def test_several_nodes_are_refused() -> None:
    several = CLUSTER.model_copy(update={"steps": {**CLUSTER.steps, "pretrain": {"nodes": 2}}})
    with pytest.raises(SimipuError, match=r"steps\.pretrain\.nodes: only Kubeflow's pipelines"):
        made("improved/kitti_kitti.yaml", cluster=several)


def test_training_on_several_gpus_is_told_how_many() -> None:
    steps = templates(made("improved/kitti_kitti.yaml"))
    assert {"name": "SIMIPU_PROCESSES", "value": "8"} in steps["pretrain"]["container"]["env"]
    assert steps["pretrain"]["container"]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "SIMIPU_PROCESSES" not in json.dumps(steps["pair-depth"]["container"]["env"])
    assert steps["pretrain"]["retryStrategy"]["retryPolicy"] == "Always"  # lost nodes too
    assert steps["configure"]["retryStrategy"]["expression"] == "lastRetry.exitCode != '1'"  # not what was refused
    assert steps["pretrain"]["retryStrategy"]["backoff"] == {"duration": "60s", "factor": 2}
    assert steps["pretrain"]["activeDeadlineSeconds"] == 5 * 86400  # of each attempt
    node = {"fieldRef": {"fieldPath": "metadata.annotations['workflows.argoproj.io/node-name']"}}
    assert {"name": "SIMIPU_WORKFLOW_NODE", "valueFrom": node} in steps["pretrain"]["container"]["env"]  # counts them


def filled(words: list[str], form: dict[str, str], results: dict[str, str]) -> list[str]:
    """A container's arguments with the values that Argo puts in: expressions of the form and of earlier results."""

    def value(found: "re.Match[str]") -> str:
        return json.dumps(json.loads(results[found[1]])["parameterValues"][found[2]])

    text = json.dumps(words)  # as Argo does: a value becomes a part of a JSON string
    for pattern, put in (
        (r"{{=toJson\(jsonpath\(inputs\.parameters\['(.+?)'\], '\$\.parameterValues\.(\w+)'\)\)}}", value),
        (r"{{=toJson\(workflow\.parameters\['(\w+)'\]\)}}", lambda found: json.dumps(form[found[1]])),
        (r"{{workflow\.parameters\.(\w+)}}", lambda found: form[found[1]]),
    ):
        text = re.sub(pattern, lambda found, put=put: json.dumps(put(found))[1:-1], text)  # type: ignore[misc]
    assert "{{" not in text
    return list(json.loads(text))


def run_workflow(resource: dict[str, Any], folder: Path, values: dict[str, str], environment: dict[str, str]) -> None:
    """What Argo does: each task after those that it depends on, with their results and artifacts."""
    form = {one["name"]: one["value"] for one in resource["spec"]["arguments"]["parameters"]} | values
    waiting = {task["name"]: task for task in resource["spec"]["templates"][0]["dag"]["tasks"]}
    steps, done = templates(resource), set[str]()
    while waiting:
        name = next(name for name, task in waiting.items() if done.issuperset(task.get("dependencies", [])))
        task, container, here = waiting.pop(name), steps[name]["container"], folder / name
        for given in task.get("arguments", {}).get("artifacts", []):
            _, above, _, _, output = given["from"].strip("{}").split(".")
            place = here / "inputs" / given["name"]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder / above / "outputs" / output, place)
        results = {
            given["name"]: (folder / given["value"].split(".")[1] / "outputs" / "executor_output.json").read_text()
            for given in task.get("arguments", {}).get("parameters", [])
        }
        words = [*container["command"], *filled(container["args"], form, results)]
        words = [re.sub(r"(?<=\")/(inputs|outputs)/", rf"{here}/\1/", word) for word in words]
        variables = {one["name"]: one["value"] for one in container["env"] if "value" in one} | environment
        ran = subprocess.run(words, env=variables, cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        for made_here in steps[name]["outputs"]["artifacts"]:
            assert (here / "outputs" / made_here["name"]).exists()
        done.add(name)


def test_the_steps_run_as_argo_runs_them(tmp_path: Path) -> None:
    """The real commands, with stages that do nothing, on what earlier steps really returned."""
    log = tmp_path / "log"
    log.touch()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{Path(__file__).with_name('fakes')}:{ROOT}",
        "FAKE_LOG": str(log),
        "TMPDIR": str(tmp_path),
        "SIMIPU_CACHE": str(tmp_path / "cache"),
        "SIMIPU_PROCESSES": "1",
        "PYTHONWARNINGS": "ignore",
    }
    values = {
        "data": json.dumps({"data/raw": 's3://bucket/a "b" \\ c'}),
        "settings": "seed=3 pair.depth_range='[1, 2]'",
    }
    rows = [load_experiment(ROOT / "params.yaml", [f"experiment={name}"]) for name in ("a", "b")]
    rows = [
        row.model_copy(update={"finetune": row.finetune.model_copy(update={"scratch_control": False})}) for row in rows
    ]
    write_argo(rows, tmp_path / "flow.yaml", CLUSTER)
    run_workflow(yaml.safe_load((tmp_path / "flow.yaml").read_text()), tmp_path, values, environment)
    shared = ["ingest_pretrain_a", "pair_pretrain_a", "pretrain_a", "ingest_depth_a", "pair_depth_a", "finetune_a"]
    assert sorted(log.read_text().split()) == sorted([*shared, "evaluate_a", "evaluate_b", "table"])
    assert (tmp_path / "table" / "outputs" / "summary").read_text().count("0.5000") == 2
    returned = json.loads((tmp_path / "configure-b" / "outputs" / "executor_output.json").read_text())[
        "parameterValues"
    ]
    assert (returned["pretrain"]["seed"], returned["pair"]["depth_range"]) == (3, [1, 2])
    assert returned["ingest_depth"]["root"] == 's3://bucket/a "b" \\ c'


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    write_argo([load("improved/kitti_kitti.yaml")], tmp_path / "flow.yaml", CLUSTER)
    (read,) = yaml.safe_load_all((tmp_path / "flow.yaml").read_text())
    assert read == made("improved/kitti_kitti.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["flow.yaml"]
