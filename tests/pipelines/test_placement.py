"""The compiled pipeline of every experiment: where each step runs, with what, and what Kubeflow's cache sees of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.configure.component import configure
from pipelines.cluster import Cluster, load_cluster, settings_of
from pipelines.fields import PLACED, TOLD
from pipelines.package import write, write_argo, write_manifest
from simipu_core import project
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment
from tests.admission import holds, mutated
from tests.kubernetes_schema import differences
from tests.pod_security import containers, violations
from tests.trainer_api import problems

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/simipu@sha256:" + "0123456789abcdef" * 4
DATA_IMAGE = IMAGE.replace("simipu@", "simipu-data@")
FAST = {"demo", "improved/kitti_kitti", "reference/scratch_nyu", "own_logs"}
"""Of every shape one; the others compile for minutes in all."""
FILES = [
    pytest.param(
        "params.yaml" if name == "demo" else f"experiments/{name}.yaml",
        marks=[] if name in FAST else pytest.mark.slow,
        id=name,
    )
    for name in project.experiments()
]
YAML_BOOLEANS = {"n", "y", "no", "yes", "on", "off", "true", "false"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Task = dict[str, Any]


def compiled(rows: Experiment | list[Experiment], folder: Path, cluster: Cluster) -> list[Any]:
    write(rows, folder / "pipeline.yaml", cluster)
    assert [path.name for path in folder.iterdir()] == ["pipeline.yaml"]
    return list(yaml.safe_load_all((folder / "pipeline.yaml").read_text(encoding="utf-8")))


@cache
def example(image: str = IMAGE, data_image: str = DATA_IMAGE) -> Cluster:
    return load_cluster(ROOT / "cluster.yaml", image, data_image)


def tasks(documents: list[Any]) -> dict[str, tuple[Task, dict[str, Any], dict[str, Any], str]]:
    """By the name that people see: task, container, Kubernetes settings, component."""
    pipeline, platform = documents
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: dict[str, tuple[Task, dict[str, Any], dict[str, Any], str]] = {}
    for task in pipeline["root"]["dag"]["tasks"].values():
        executor = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][executor]["container"]
        component = settings_of(container["args"][-1])
        found[task["taskInfo"]["name"]] = (task, container, placed[executor], component)
    return found


@pytest.fixture(scope="module")
def text_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compiles an experiment for the example's cluster, once."""
    folder = tmp_path_factory.mktemp("compiled")

    def text(name: str) -> str:
        file = folder / f"{name.replace('/', '_')}.yaml"
        if not file.exists():
            write(load_experiment(ROOT / name), file, example())
        return file.read_text(encoding="utf-8")

    return text


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (
            "tracking.mlflow_experiment",
            "https://user:hunter2@host/x",
            "holds a login, and whoever sees the pipeline would see it",
        ),
        ("tracking.mlflow_experiment", "s3://bucket/x?X-Amz-Signature=hunter2", "holds a login"),
        ("tracking.model_name", "{{workflow.name}}", r"holds \{\{, which Argo or Kubernetes would replace"),
        ("tracking.model_name", "a$(AWS_SECRET_ACCESS_KEY)", r"holds \$\(, which"),
        ("tracking.mlflow_experiment", "{{$.inputs.parameters['foo']}}", r"holds \{\{, which"),
    ],
)
@pytest.mark.parametrize("made", [write, write_argo])
def test_settings_that_would_leak_or_be_expanded_are_refused(
    key: str, value: str, told: str, made: Callable[..., None], tmp_path: Path
) -> None:
    experiment = load_experiment(ROOT / "params.yaml", [f"{key}={json.dumps(value)}"])
    with pytest.raises(SimipuError, match=rf"^{key}.*{told}") as caught:
        made(experiment, tmp_path / "pipeline.yaml", example())
    assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_every_step_is_placed_as_the_file_says(name: str, text_of: Callable[[str], str]) -> None:
    documents = list(yaml.safe_load_all(text_of(name)))
    found = tasks(documents)
    expected = {"configure", "ingest_depth", "pair_depth", "finetune", "evaluate"}
    assert expected <= found.keys() <= expected | {"ingest_pretrain", "pair_pretrain", "pretrain", "finetune_scratch"}
    for step, (task, container, placed, component) in found.items():
        settings = example().step(component)
        resources = container["resources"]
        image = DATA_IMAGE if component in ("configure", "ingest", "pair") else IMAGE
        assert container["image"] == image
        assert resources["resourceCpuRequest"] == settings.cpu_request
        assert resources["resourceMemoryRequest"] == settings.memory_request
        assert resources["resourceMemoryLimit"] == settings.memory_limit
        gpus = {"pretrain": "8", "finetune": "8", "evaluate": "1"}.get(component)
        assert resources.get("accelerator", {}).get("resourceCount") == gpus
        assert resources.get("accelerator", {}).get("resourceType") == ("nvidia.com/gpu" if gpus else None)

        mounts = {mount["mountPath"]: mount for mount in placed["emptyDirMounts"]}
        sizes = {path: mount.get("sizeLimit") for path, mount in mounts.items()}
        assert sizes.pop("/dev/shm", None) == settings.shm
        assert sizes == {"/scratch": settings.scratch, "/tmp": None}
        assert mounts.get("/dev/shm", {"medium": "Memory"})["medium"] == "Memory"

        assert [(t["key"], t["effect"]) for t in placed.get("tolerations", [])] == [
            (toleration.key, toleration.effect) for toleration in settings.tolerations
        ]
        labels = {"node.kubernetes.io/instance-type": "gpu-8x80"} if component in ("pretrain", "finetune") else None
        assert placed.get("nodeSelector", {}).get("labels") == labels
        given = {
            source["secretName"]: {key["envVar"]: key["secretKey"] for key in source["keyToEnv"]}
            for source in placed.get("secretAsEnv", [])
        }
        assert given == {source.name: source.keys for source in example().secrets_of(component)}
        (config_map,) = placed["configMapAsEnv"]
        assert config_map["configMapName"] == "simipu-settings"
        fields = {field["name"]: field["fieldPath"] for field in placed["fieldPathAsEnv"]}
        is_training = component in ("pretrain", "finetune")
        node = {"SIMIPU_WORKFLOW_NODE": "metadata.annotations['workflows.argoproj.io/node-name']"}
        assert fields == {"SIMIPU_PIPELINE_RUN": "metadata.labels['pipeline/runid']", **(node if is_training else {})}
        assert placed["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        assert placed["imagePullPolicy"] == "IfNotPresent"
        assert placed["activeDeadlineSeconds"] == str(settings.timeout)
        assert task["retryPolicy"] == {
            "maxRetryCount": 3,
            "backoffDuration": "60s",
            "backoffFactor": 2,
            "backoffMaxDuration": f"{14 * 86400}s",
        }
        assert settings.timeout < 14 * 86400
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        own = environment.keys() - example().environment.keys() | fields.keys()
        assert own <= PLACED | TOLD  # so that cluster.yaml cannot give them a second time
        assert environment.get("SIMIPU_STEP") == (None if step == "configure" else step)
        assert ("SIMIPU_LAST_STEP" in environment) == (step == "evaluate")
        assert environment["SIMIPU_IMAGE"] == image
        assert environment["SIMIPU_CACHE"] == "/scratch/cache"
        assert environment.get("SIMIPU_PROCESSES") == ("8" if is_training else None)
        retry = {"times": 3, "wait": 60, "factor": 2, "within": 14 * 86400}
        assert json.loads(environment.get("SIMIPU_RETRY", "null")) == (retry if is_training else None)
    pipeline_settings = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]
    ends = ("Completion", "Success", "Failure")  # the server's own times for the last two would win over the first
    assert pipeline_settings == {f"resourceTtlOn{end}": 7 * 86400 for end in ends}


@pytest.mark.parametrize("name", FILES)
def test_every_pipeline_is_a_whole_one(name: str, text_of: Callable[[str], str], tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(text_of(name)))
    pipeline, platform = documents
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())  # unknown fields are errors
    for placed in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(placed, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    for part in [pipeline["root"], *pipeline["components"].values()]:
        assert YAML_BOOLEANS.isdisjoint(part.get("inputDefinitions", {}).get("parameters", {}))
    form = pipeline["root"]["inputDefinitions"]["parameters"]
    assert len(form) <= 6
    assert all(field["parameterType"] == "STRING" and "defaultValue" in field for field in form.values())
    found = tasks(documents)
    for step, (task, _, _, component) in found.items():
        if component != "configure":  # settings are checked before any work
            assert "configure" in ancestors(step, found)
        assert "pip install" not in json.dumps(task)
    assert str(ROOT) not in text_of(name)
    assert compiled(load_experiment(ROOT / name), tmp_path, example()) == documents
    assert (tmp_path / "pipeline.yaml").read_text(encoding="utf-8") == text_of(name)


def ancestors(step: str, found: dict[str, Any]) -> set[str]:
    shown = {task["componentRef"]["name"].removeprefix("comp-"): name for name, (task, *_) in found.items()}
    above = {shown[key] for key in found[step][0].get("dependentTasks", [])}
    return above.union(*(ancestors(name, found) for name in above))


def server_pod(placed: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The pod of a step: the template of Kubeflow Pipelines 2.17, recorded, with Argo's containers by its sources."""
    template: dict[str, Any] = json.loads(Path(__file__).with_name("executor_pod.json").read_text(encoding="utf-8"))
    (main,) = [each for each in template["spec"]["containers"] if each["name"] == "main"]
    main["securityContext"] |= {
        key: value if isinstance(value, bool) else int(value) for key, value in placed["securityContext"].items()
    }
    mounts = placed["emptyDirMounts"]
    main["volumeMounts"] += [{"name": mount["volumeName"], "mountPath": mount["mountPath"]} for mount in mounts]
    template["spec"]["volumes"] += [{"name": mount["volumeName"], "emptyDir": {}} for mount in mounts]
    main["image"] = container["image"]
    template["metadata"]["labels"] |= placed["podMetadata"]["labels"]
    return template


def test_pods_of_steps_are_restricted_and_read_only_with_the_policy(text_of: Callable[[str], str]) -> None:
    policy = yaml.safe_load((ROOT / "deploy" / "policies" / "pods.yaml").read_text(encoding="utf-8"))
    found = tasks(list(yaml.safe_load_all(text_of("params.yaml"))))
    for _, container, placed, _ in found.values():
        pod = server_pod(placed, container)
        assert violations(pod) == []
        made = mutated(pod, policy)
        assert list(differences(made["spec"], "V1PodSpec", "spec")) == []
        assert violations(made) == []
        for place, each in containers(made["spec"]):
            assert each["securityContext"]["readOnlyRootFilesystem"], place
        (main,) = [each for each in made["spec"]["containers"] if each["name"] == "main"]
        assert main["image"] == container["image"]
        assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"/tmp", "/scratch", "/s3", "/minio"} <= {mount["mountPath"] for mount in main["volumeMounts"]}
        places = {variable["name"]: variable["value"] for variable in container["env"]}
        for name in ("HOME", "TMPDIR", "SIMIPU_CACHE"):  # all that is written to lies in a volume
            assert places[name].startswith(("/tmp", "/scratch"))


def test_artifacts_have_the_types_that_the_page_shows(tmp_path: Path) -> None:
    pipeline, _ = compiled(load_experiment(ROOT / "params.yaml"), tmp_path, example())
    types = {
        (component.removeprefix("comp-").rstrip("-2").partition("-")[0], output): artifact["artifactType"][
            "schemaTitle"
        ]
        for component, definition in pipeline["components"].items()
        for output, artifact in definition.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    assert types == {
        ("ingest", "catalogue"): "system.Dataset",
        ("ingest", "page"): "system.HTML",
        ("pair", "shards"): "system.Dataset",
        ("pretrain", "encoder"): "system.Model",
        ("finetune", "model"): "system.Model",
        ("evaluate", "report"): "system.Artifact",
        ("evaluate", "metrics"): "system.Metrics",
        ("evaluate", "page"): "system.HTML",
        ("evaluate", "table"): "system.Markdown",
    }


def test_training_on_several_nodes_is_a_train_job_that_a_small_step_waits_for(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    settings["pull_secrets"] = ["registry-login"]
    settings["steps"]["pretrain"] |= {"nodes": 2, "labels": {"team": "a"}}
    settings["steps"]["finetune"] = settings["steps"]["pretrain"] | {"nodes": 1}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))
    several = load_cluster(tmp_path / "cluster.yaml", IMAGE, DATA_IMAGE)
    (tmp_path / "out").mkdir()
    found = tasks(compiled(load_experiment(ROOT / "params.yaml"), tmp_path / "out", several))
    task, container, placed, _ = found["pretrain"]
    assert task["inputs"].get("artifacts", {}) == {}  # Kubeflow downloads those
    assert task["inputs"]["parameters"]["pairs"]["taskOutputParameter"]["outputParameterKey"] == "address"
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    spec = json.loads(environment["SIMIPU_TRAIN_JOB"])
    job = {"metadata": {"name": "job"}, "spec": spec}
    assert problems(job) == []
    trainer = spec["trainer"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == (IMAGE, 2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "480Gi", "nvidia.com/gpu": "8"}
    assert spec["activeDeadlineSeconds"] == several.step("pretrain").timeout
    given = {variable["name"]: variable for variable in trainer["env"]}
    assert given["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "simipu-training-store"
    assert given["SIMIPU_CHECKPOINTS"]["valueFrom"]["configMapKeyRef"]["key"] == "SIMIPU_CHECKPOINTS"
    assert "SIMIPU_PROCESSES" not in given
    (patch,) = spec["runtimePatches"]
    pod = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["labels"] == {"app.kubernetes.io/part-of": "simipu", "team": "a"}
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry-login"}]
    assert pod["spec"]["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000}
    policy = yaml.safe_load((ROOT / "deploy" / "policies" / "train-jobs.yaml").read_text(encoding="utf-8"))
    assert all(holds(rule["expression"], object=job) for rule in policy["spec"]["validations"])
    runtime = yaml.safe_load((ROOT / "deploy" / "trainer" / "runtime.yaml").read_text(encoding="utf-8"))
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    context = {**template["spec"]["securityContext"], **pod["spec"]["securityContext"]}
    assert violations({**pod, "spec": {**template["spec"], **pod["spec"], "securityContext": context}}) == []
    assert "accelerator" not in container["resources"]
    waiting = {key: value for key, value in container["resources"].items() if key.startswith("resource")}
    assert waiting == {
        "resourceCpuRequest": "50m",
        "resourceMemoryRequest": "256Mi",
        "resourceMemoryLimit": "1Gi",
    }
    assert "nodeSelector" not in placed
    assert placed["activeDeadlineSeconds"] == str(several.step("pretrain").timeout)

    assert set(found["finetune"][0]["inputs"]["artifacts"]) == {"depth", "encoder"}
    names = {variable["name"] for variable in found["finetune"][1]["env"]}
    assert "SIMIPU_PROCESSES" in names
    assert "SIMIPU_TRAIN_JOB" not in names
    one = fingerprints(compiled(load_experiment(ROOT / "params.yaml"), tmp_path / "out", example()))
    two = fingerprints(compiled(load_experiment(ROOT / "params.yaml"), tmp_path / "out", several))
    assert {name for name in one if one[name] != two[name]} == {"pretrain"}  # which is told addresses


# -- what the cache sees ---------------------------------------------------------------------------------------------


def resolved(given: dict[str, Any], defaults: dict[str, Any], known: dict[str, Any]) -> Any:
    """The value of a task's parameter, as the driver finds it."""
    if "runtimeValue" in given:
        return given["runtimeValue"]["constant"]
    if source := given.get("taskOutputParameter"):
        key = source["outputParameterKey"]
        return known[source["producerTask"]][key] if source["producerTask"] in known else f"<{key}>"
    return defaults[given["componentInputParameter"]]


def fingerprints(documents: list[Any], settings: str = "") -> dict[str, str]:
    """What Kubeflow's driver compares, by step: resolved parameters, names of the artifacts, outputs, command, image.

    See backend/src/v2/driver/cache.go of Kubeflow Pipelines. Environment, resources and secrets are not among it.
    """
    pipeline = documents[0]
    defaults: dict[str, Any] = {
        name: field["defaultValue"] or f"<{name}>"
        for name, field in pipeline["root"]["inputDefinitions"]["parameters"].items()
    }
    if "data" in defaults:
        defaults["data"] = {root: address or f"<{root}>" for root, address in defaults["data"].items()}
    found, known = tasks(documents), {}
    for task, *_, component in found.values():
        if component == "configure":
            given = task["inputs"]["parameters"]
            made = configure.python_func(
                **{key: resolved(value, defaults, {}) for key, value in given.items() if value} | {"settings": settings}
            )
            known[task["componentRef"]["name"].removeprefix("comp-")] = dict(
                zip(configure.python_func.__annotations__["return"]._fields, made, strict=True)
            )
    seen = {}
    for name, (task, container, *_) in found.items():
        given = {
            key: resolved(value, defaults, known) for key, value in task.get("inputs", {}).get("parameters", {}).items()
        }
        outputs = pipeline["components"][task["componentRef"]["name"]].get("outputDefinitions")
        compared = [given, sorted(task.get("inputs", {}).get("artifacts", {})), outputs]
        seen[name] = json.dumps(
            [*compared, container["command"], container["args"], container["image"]], sort_keys=True
        )
    return seen


def changed(folder: Path, cluster: Cluster | None = None, *overrides: str) -> set[str]:
    """Steps that Kubeflow would not take from the cache after a change, those below them apart."""
    before = fingerprints(compiled(load_experiment(ROOT / "params.yaml"), folder, example()))
    experiment = load_experiment(ROOT / "params.yaml", list(overrides))
    after = fingerprints(compiled(experiment, folder, cluster or example()))
    assert before.keys() == after.keys()
    return {step for step in before if before[step] != after[step]} - {"configure"}


@pytest.mark.slow
def test_the_cache_misses_what_changed_and_only_that(tmp_path: Path) -> None:
    every = {"ingest_pretrain", "pair_pretrain", "pretrain", "ingest_depth", "pair_depth", "finetune"}
    every |= {"finetune_scratch", "evaluate"}
    assert changed(tmp_path) == set()
    assert changed(tmp_path, example(IMAGE.replace("0", "f"), DATA_IMAGE.replace("0", "f"))) == every
    assert changed(tmp_path, example(data_image=DATA_IMAGE.replace("0", "f"))) == every & {
        "ingest_pretrain",
        "pair_pretrain",
        "ingest_depth",
        "pair_depth",
    }
    assert changed(tmp_path, None, "finetune.schedule.max_lr=0.1") == {"finetune", "finetune_scratch"}
    assert changed(tmp_path, None, "pretrain.contrast.temperature=0.1") == {"pretrain"}
    assert changed(tmp_path, None, "pair.min_points=2") == {"pair_pretrain", "pair_depth"}
    assert changed(tmp_path, None, "evaluate.flip=false") == {"evaluate"}
    assert changed(tmp_path, None, "depth_data.every=2") == {"ingest_depth"}
    assert changed(tmp_path, None, "pretrain.seed=1", "finetune.seed=1") == {
        "pretrain",
        "finetune",
        "finetune_scratch",
    }


def test_settings_of_the_form_count_like_those_that_are_compiled_in(tmp_path: Path) -> None:
    documents = compiled(load_experiment(ROOT / "params.yaml"), tmp_path, example())
    changed_here = fingerprints(documents, "finetune.epochs=9 seed=3")
    before = fingerprints(documents)
    trained = {"pretrain", "finetune", "finetune_scratch"}
    assert {step for step in before if before[step] != changed_here[step]} == trained
    overrides = ["finetune.epochs=9", "seed=3"]
    after = fingerprints(compiled(load_experiment(ROOT / "params.yaml", overrides), tmp_path, example()))
    assert {step for step in after if after[step] != changed_here[step]} == {"configure"}


def test_the_cache_misses_another_version_of_the_data(tmp_path: Path) -> None:
    here = load_experiment(ROOT / "params.yaml", ["depth_data.root=data/depth"])
    versions = [
        fingerprints(compiled(here, tmp_path, Cluster(image=IMAGE, data={"data/depth": address})))
        for address in ("s3://raw/files/md5/1", "s3://raw/files/md5/2")
    ]
    changed_steps = {step for step in versions[0] if versions[0][step] != versions[1][step]}
    assert changed_steps == {"configure", "ingest_depth"}


def test_the_cache_knows_nothing_of_runs_and_places(tmp_path: Path) -> None:
    other = Cluster(
        image=IMAGE,
        data_image=DATA_IMAGE,
        steps={"pretrain": {"gpus": 4, "labels": {"team": "a"}}},
        environment={"NCCL_DEBUG": "INFO"},
    )
    assert changed(tmp_path, other) == set()
    for seen in fingerprints(compiled(load_experiment(ROOT / "params.yaml"), tmp_path, other)).values():
        assert not any(word in seen for word in ("pipeline_job", "runid", "SIMIPU_PIPELINE_RUN", "{{$.pipeline"))


# -- sweeps and manifests --------------------------------------------------------------------------------------------


def sweep(preset: str) -> list[Experiment]:
    rows = [f"{start}_{data}" for start in ("scratch", "imagenet", "kitti", "waymo") for data in ("kitti", "nyu")]
    return [load_experiment(ROOT / "experiments" / preset / f"{row}.yaml") for row in rows]


@pytest.mark.parametrize("preset", ["improved", pytest.param("reference", marks=pytest.mark.slow)])
def test_eight_rows_share_what_they_have_in_common(preset: str, tmp_path: Path) -> None:
    documents = compiled(sweep(preset), tmp_path, example())
    found = tasks(documents)
    count = {kind: sum(component == kind for *_, component in found.values()) for kind in ("ingest", "pair")}
    count |= {kind: sum(component == kind for *_, component in found.values()) for kind in ("pretrain", "finetune")}
    assert count == {"ingest": 4, "pair": 4, "pretrain": 2, "finetune": 8}
    encoders = {
        name: task["inputs"]["artifacts"]["encoder"]["taskOutputArtifact"]["producerTask"]
        for name, (task, *_) in found.items()
        if "encoder" in task["inputs"].get("artifacts", {})
    }
    for start in ("kitti", "waymo"):
        first, second = (encoders[f"finetune_{preset}_{start}_{data}"] for data in ("kitti", "nyu"))
        assert first == second
    table = found["table"][0]["inputs"]
    names = table["parameters"]["names"]["runtimeValue"]["constant"]
    assert names == [row.experiment for row in sweep(preset)]
    shown = {task["componentRef"]["name"].removeprefix("comp-"): name for name, (task, *_) in found.items()}
    for place, name in zip(table["parameters"]["scores"]["runtimeValue"]["constant"], names, strict=True):
        source = table["parameters"][place.split("'")[1]]["taskOutputParameter"]
        assert (shown[source["producerTask"]], source["outputParameterKey"]) == (f"evaluate_{name}", "scores")
    form = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert form.keys() == {"data", "settings"}
    assert form["data"]["defaultValue"] == {"data/kitti": "", "data/nyu": "", "data/waymo": ""}


@pytest.mark.slow
def test_a_row_of_a_sweep_and_the_row_alone_have_their_steps_in_common(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = Cluster(image=IMAGE, data={"data/kitti": "s3://kitti", "data/nyu": "s3://nyu", "data/waymo": "s3://waymo"})
    alone = fingerprints(compiled(sweep("improved")[4], tmp_path / "a", data))
    within = set(fingerprints(compiled(sweep("improved"), tmp_path / "b", data)).values())
    assert {step for step, seen in alone.items() if seen not in within} == {"configure"}


def test_rows_keep_what_they_set_differently(tmp_path: Path) -> None:
    rows = [
        load_experiment(ROOT / "params.yaml", [f"experiment={name}", f"finetune.epochs={epochs}"])
        for name, epochs in (("a", 1), ("b", 2))
    ]
    found = {
        name: json.loads(seen)[0]["section"]["epochs"]
        for name, seen in fingerprints(compiled(rows, tmp_path, example())).items()
        if name.startswith("finetune_") and "scratch" not in name
    }
    assert found == {"finetune_a": 1, "finetune_b": 2}


@pytest.mark.slow
def test_manifests_are_resources_of_kubeflow_and_kubernetes(tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    write_manifest(load_experiment(ROOT / "params.yaml"), file, example())
    pipeline, version = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    for resource in (pipeline, version):
        assert resource["apiVersion"] == "pipelines.kubeflow.org/v2beta1"
        assert list(differences(resource["metadata"], "V1ObjectMeta", "metadata")) == []
        assert resource["metadata"]["namespace"] == "simipu"
        assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    assert (pipeline["kind"], pipeline["metadata"]["name"]) == ("Pipeline", "simipu")
    assert version["kind"] == "PipelineVersion"
    spec = version["spec"]
    fields = {"description", "codeSourceURL", "pipelineName", "versionName", "displayName", "pipelineSpec"}
    assert set(spec) <= fields | {"platformSpec", "pipelineSpecURI", "tags"}  # pipelineversion_types.go
    assert spec["pipelineName"] == "simipu"
    documents = compiled_beside(file)
    assert [spec["pipelineSpec"], spec["platformSpec"]] == documents
    write_manifest(load_experiment(ROOT / "params.yaml", ["pair.min_points=2"]), file, example())
    _, other = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert other["metadata"]["name"] != version["metadata"]["name"]


def compiled_beside(file: Path) -> list[Any]:
    folder = file.parent / "plain"
    folder.mkdir()
    return compiled(load_experiment(ROOT / "params.yaml"), folder, example())


def test_the_command_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.yaml"
        command = [sys.executable, "-m", "pipelines", "compile", "--out", str(file)]
        command += ["--sweep", "improved/kitti_kitti", "--sweep", "improved/kitti_nyu"]
        command += ["--cluster", "cluster.yaml", "--image", IMAGE]
        environment = {"PYTHONHASHSEED": seed, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{file}\n")
        texts.append(file.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
