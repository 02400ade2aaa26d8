"""The manifests in deploy/: resources of Kubernetes by its own models, which fit each other and cluster.yaml."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

from pipelines.cluster import COMPONENTS, Cluster, load_cluster
from simipu_core.cli import app
from simipu_core.experiment import load_experiment
from tests.admission import holds, mutated
from tests.kubernetes_schema import differences, problems
from tests.pod_security import containers as containers_of
from tests.pod_security import violations

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))
KUSTOMIZATIONS = [file for file in FILES if file.name == "kustomization.yaml"]
RUNTIME = DEPLOY / "trainer" / "runtime.yaml"  # of Kubeflow Trainer, not of Kubernetes
KSERVE = DEPLOY / "serving" / "kserve" / "inference-service.yaml"  # of KServe
UI = DEPLOY / "multi-user" / "pipeline-ui.yaml"  # a patch
POLICIES = DEPLOY / "policies"
MUTATING = [POLICIES / "pods.yaml", POLICIES / "pods-binding.yaml"]  # of kinds that are newer than the client
MANIFESTS = [file for file in FILES if file not in [*KUSTOMIZATIONS, RUNTIME, KSERVE, UI, *MUTATING]]
WAYS = {"standalone": "kubeflow", "multi-user": "simipu"}
"""Overlays for Kubeflow, and their namespaces."""
OVERLAYS = {f"{way}{part}": namespace for way, namespace in WAYS.items() for part in ("", "/trainer")}
OVERLAYS["argo"] = OVERLAYS["serving"] = OVERLAYS["serving/kserve"] = "simipu"
SERVER = "simipu-serving"


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def read(file: Path) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in map(read, MANIFESTS) if found["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in ("Deployment", "StatefulSet"):
        for name, workload in named(kind).items():
            yield name, workload["spec"]["template"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods():
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{name}/{container['name']}", container


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_every_manifest_is_a_resource_of_kubernetes(file: Path) -> None:
    assert problems(read(file)) == []


def test_a_misspelt_field_or_another_type_would_be_found() -> None:
    service = named("Service")["mlflow"]
    service["spec"]["port"] = []
    service["spec"]["ports"][0]["port"] = "5000"
    assert problems(service) == [
        "Service.spec.port: unknown field of V1ServiceSpec",
        "Service.spec.ports[0].port: '5000' is no int",
    ]
    assert problems({"apiVersion": "v1", "kind": "Servce"}) == ["v1 Servce: not a kind of the client's"]


def test_kustomizations_list_all_files_but_the_templates_of_secrets() -> None:
    listed = {(file.parent / name).resolve() for file in KUSTOMIZATIONS for name in read(file)["resources"]}
    assert all(path.exists() for path in listed)
    templates = set((DEPLOY / "secrets").iterdir())
    assert {*MANIFESTS, *MUTATING, RUNTIME, KSERVE} - listed == templates


@pytest.mark.parametrize("way", WAYS)
def test_each_way_has_its_namespace_and_accounts(way: str) -> None:
    namespace, folder = WAYS[way], DEPLOY / way
    assert read(folder / "kustomization.yaml")["resources"] == ["../account", "../settings", "../mlflow"]
    for kustomization in (folder / "kustomization.yaml", folder / "trainer" / "kustomization.yaml"):
        assert read(kustomization)["namespace"] == namespace
    binding = read(folder / "trainer" / "role-binding.yaml")
    account = read(DEPLOY / "account" / "service-account.yaml")["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    assert binding["roleRef"]["name"] == read(DEPLOY / "trainer" / "role.yaml")["metadata"]["name"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_each_way(overlay: str) -> None:
    built = subprocess.run(["kubectl", "kustomize", DEPLOY / overlay], capture_output=True, text=True, check=True)
    resources = list(yaml.safe_load_all(built.stdout))
    namespace = OVERLAYS[overlay]
    assert {resource["metadata"]["namespace"] for resource in resources} == {namespace}
    kinds = {resource["kind"] for resource in resources}
    expected = {"serving": {"Deployment", "Service"}, "serving/kserve": {"InferenceService", "NetworkPolicy"}}
    training = {"TrainingRuntime", "RoleBinding"} if "/" in overlay else {"ConfigMap", "Deployment"}
    assert kinds >= expected.get(overlay, training)
    bound = [subject for resource in resources for subject in resource.get("subjects", [])]
    assert {subject["namespace"] for subject in bound} == (set() if "serving" in overlay else {namespace})
    assert "image: simipu-train" not in built.stdout  # the digest's name took its place
    (other,) = set(OVERLAYS.values()) - {namespace}
    assert f"namespace: {other}" not in built.stdout


def test_argo_alone_has_an_account_that_may_hand_on_results() -> None:
    folder = DEPLOY / "argo"
    account, role, binding = (read(folder / f"{name}.yaml") for name in ("service-account", "role", "role-binding"))
    assert account["metadata"]["name"] == Cluster.model_fields["service_account"].default
    namespace = read(folder / "kustomization.yaml")["namespace"]
    subject = {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": namespace}
    assert binding["subjects"] == [subject]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    results = {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    assert role["rules"] == [results]


def test_the_ui_is_given_the_object_store_of_the_settings() -> None:
    (container,) = read(UI)["spec"]["template"]["spec"]["containers"]
    assert list(differences(container, "V1Container", "container")) == []
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    store = yaml.safe_load(named("ConfigMap")["kfp-launcher"]["data"]["providers"])["s3"]["default"]
    host = store["endpoint"].partition(":")[0]
    assert given["AWS_S3_ENDPOINT"] == host
    assert given["MINIO_ENDPOINT_REWRITE"] == f"{host}={store['endpoint']}"
    assert given["AWS_SSL"] == str(not store["disableSSL"]).lower()
    for variable in container["env"]:
        if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["key"] in named("Secret")[reference["name"]]["stringData"]


def test_in_a_mesh_mlflow_and_the_server_stay_outside_as_the_steps_do() -> None:
    seen = 0
    for _, pod in pods():
        assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
        seen += 1
    assert seen == 3


def test_the_training_runtime_has_pods_of_kubernetes_and_is_the_one_that_cluster_yaml_names() -> None:
    runtime = read(RUNTIME)
    chosen = load_cluster(ROOT / "cluster.yaml").training_runtime
    assert (runtime["kind"], runtime["metadata"]["name"]) == (chosen.kind, chosen.name)
    assert runtime["spec"]["mlPolicy"]["torch"] == {}
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert list(differences(job["template"]["spec"], "V1JobSpec", "job")) == []
    pod = job["template"]["spec"]["template"]["spec"]
    assert violations(job["template"]["spec"]["template"]) == []
    assert pod["restartPolicy"] == "Never"
    assert [container["name"] for container in pod["containers"]] == [
        "node"
    ]  # the name that the TrainJob's settings go to
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/dev/shm", "/scratch", "/tmp"}
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"  # the step may not read logs


def test_a_step_may_do_what_it_does_with_train_jobs() -> None:
    role = named("Role")["simipu-train-jobs"]
    verbs = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
    assert verbs == {"trainjobs": ["create", "get", "delete"], "pods": ["list"]}


def test_no_secret_has_a_value() -> None:
    for secret in named("Secret").values():
        assert set(secret.get("stringData", {}).values()) <= {""}
        assert "data" not in secret


def test_what_cluster_yaml_names_is_there() -> None:
    cluster = load_cluster(ROOT / "cluster.yaml")
    for source in cluster.config_maps:
        assert set(source.keys.values()) <= set(named("ConfigMap")[source.name]["data"])
    for source in cluster.secrets:
        assert set(source.keys.values()) == set(named("Secret")[source.name]["stringData"])
    assert cluster.namespace == read(DEPLOY / "multi-user" / "kustomization.yaml")["namespace"]
    settings = named("ConfigMap")["simipu-settings"]["data"]
    assert settings["SIMIPU_CHECKPOINTS"].startswith("s3://")
    (service,) = named("Service")["mlflow"]["spec"]["ports"]
    assert settings["MLFLOW_TRACKING_URI"] == f"http://mlflow:{service['port']}"
    assert settings["SIMIPU_MLFLOW_PAGE"] == f"http://localhost:{service['port']}"  # after the guide's port-forward
    assert "SIMIPU_MLFLOW_PAGE" in [variable for source in cluster.config_maps for variable in source.keys]


def test_what_containers_take_from_secrets_and_config_maps_is_there() -> None:
    seen = 0
    for _, container in containers():
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if reference := source.get("secretKeyRef"):
                assert reference["key"] in named("Secret")[reference["name"]]["stringData"]
                seen += 1
            elif reference := source.get("configMapKeyRef"):
                assert reference["key"] in named("ConfigMap")[reference["name"]]["data"]
                seen += 1
    assert seen >= 6
    launcher = yaml.safe_load(named("ConfigMap")["kfp-launcher"]["data"]["providers"])["s3"]["default"]
    keys = launcher["credentials"]["secretRef"]
    assert {keys["accessKeyKey"], keys["secretKeyKey"]} == set(named("Secret")[keys["secretName"]]["stringData"])


def test_nothing_runs_without_bounds_and_probes() -> None:
    for name, container in containers():
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        if not name.endswith("/migrate"):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_every_image_is_named_by_digest() -> None:
    named_in = [DEPLOY / folder / "kustomization.yaml" for folder in ("mlflow", "serving", "serving/kserve")]
    images = {image["name"]: image for file in named_in for image in read(file)["images"]}
    assert {container["image"] for _, container in containers()} == images.keys()
    for image in images.values():
        assert image.keys() <= {"name", "newName", "digest"}  # no tag
        assert re.fullmatch(r"sha256:([0-9a-f]{64}|DIGEST)", image["digest"])  # the latter starts on no cluster
    assert not any("images" in read(file) for file in KUSTOMIZATIONS if file not in named_in)
    assert read(named_in[1])["images"] == read(named_in[2])["images"]
    assert not re.search(r"^\s*(- )?image:", RUNTIME.read_text(encoding="utf-8") + UI.read_text(encoding="utf-8"), re.M)


def test_pods_are_restricted_and_read_only_and_without_a_token() -> None:
    for _, pod in pods():
        assert violations(pod) == []
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert all(each["securityContext"]["readOnlyRootFilesystem"] for _, each in containers_of(pod["spec"]))
    training = read(RUNTIME)["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert training["automountServiceAccountToken"] is False
    accounts = named("ServiceAccount")
    assert training["serviceAccountName"] in accounts
    with_token = {name for name, account in accounts.items() if account.get("automountServiceAccountToken", True)}
    assert with_token == {"simipu-steps"}  # Kubeflow's launcher and Argo's executor read theirs


def test_under_kserve_runs_the_same_server() -> None:
    service, deployment = read(KSERVE), named("Deployment")[SERVER]
    assert (service["apiVersion"], service["metadata"]["name"]) == ("serving.kserve.io/v1beta1", SERVER)
    predictor = dict(service["spec"]["predictor"])
    of_kserve = {key: predictor.pop(key) for key in ("minReplicas", "maxReplicas", "labels", "annotations")}
    assert of_kserve["minReplicas"] >= 1
    assert list(differences(predictor, "V1PodSpec", "predictor")) == []
    assert violations({"metadata": {}, "spec": predictor}) == []
    template = deployment["spec"]["template"]
    assert {key: of_kserve[key] for key in ("labels", "annotations")} == template["metadata"]
    (ours,), (theirs,) = template["spec"].pop("containers"), predictor.pop("containers")
    assert predictor == template["spec"]
    assert theirs.pop("name") == "kserve-container"  # the one that KServe sends requests to
    for container, port in ((ours, "http"), (theirs, 8080)):
        assert [container.pop("ports")[0]["containerPort"]] == [8080]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"].pop("port") == port
    ours.pop("name")
    assert ours == theirs


def test_the_server_is_started_by_a_command_that_there_is() -> None:
    (container,) = named("Deployment")[SERVER]["spec"]["template"]["spec"]["containers"]
    program, command, model, *options = container["command"]
    known = {option for parameter in get_command(app).commands[command].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert program == "simipu"
    assert {option for option in options if option.startswith("--")} <= known
    assert model == f"models:/{load_experiment(ROOT / 'params.yaml').tracking.model_name}@champion"
    labels = named("Deployment")[SERVER]["spec"]["template"]["metadata"]["labels"]
    (let_in,) = named("NetworkPolicy")["mlflow"]["spec"]["ingress"][0]["from"]
    assert let_in["podSelector"]["matchLabels"].items() <= labels.items()


def test_nobody_may_read_logs_or_other_secrets_or_start_pods() -> None:
    launcher = yaml.safe_load(named("ConfigMap")["kfp-launcher"]["data"]["providers"])["s3"]["default"]["credentials"]
    for role in named("Role").values():
        for rule in role["rules"]:
            assert not {"*", "pods/log", "pods/exec"} & set(rule["resources"])
            assert "pods" not in rule["resources"] or set(rule["verbs"]) <= {"get", "list"}
            if "secrets" in rule["resources"]:
                assert (rule["resourceNames"], rule["verbs"]) == ([launcher["secretRef"]["secretName"]], ["get"])
    files = [file for file in MANIFESTS if file.name == "role-binding.yaml"]
    bound = {subject["name"] for file in files for subject in read(file)["subjects"]}
    assert bound == {"simipu", "simipu-steps"}  # none of Kubeflow's own, and not that of the pods that train


def test_services_find_their_pods_and_ports() -> None:
    labels = {name: (pod["metadata"]["labels"], pod["spec"]["containers"][0]) for name, pod in pods()}
    for kind in ("Deployment", "StatefulSet"):
        for workload in named(kind).values():
            template = workload["spec"]["template"]["metadata"]["labels"]
            assert workload["spec"]["selector"]["matchLabels"].items() <= template.items()
    for name, service in named("Service").items():
        found, container = labels[name]
        assert service["spec"]["selector"].items() <= found.items()
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def mlflow() -> tuple[list[str], dict[str, Any]]:
    """Command and plain environment variables of MLflow's container."""
    (found,) = [container for name, container in containers() if name == "mlflow/mlflow"]
    return found["command"], {variable["name"]: variable.get("value") for variable in found["env"]}


def test_mlflow_answers_by_its_names_and_starts_no_jobs() -> None:
    _, environment = mlflow()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    from fnmatch import fnmatch

    patterns = str(environment["MLFLOW_SERVER_ALLOWED_HOSTS"]).split(",")
    address = named("ConfigMap")["simipu-settings"]["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    for host in (address, "mlflow.kubeflow.svc:5000", "mlflow.team-a.svc.cluster.local:5000", "localhost:5000"):
        assert any(fnmatch(host, pattern) for pattern in patterns)
    assert not any(fnmatch("mlflow.example.com:5000", pattern) for pattern in patterns)


def test_mlflow_reads_the_environment_variables_that_are_set() -> None:
    from mlflow.cli import server

    known = {option.envvar for option in server.params}
    for name in ("HOST", "PORT", "WORKERS", "BACKEND_STORE_URI", "ARTIFACTS_DESTINATION", "SERVER_ALLOWED_HOSTS"):
        assert f"MLFLOW_{name}" in known


def test_mlflow_asks_for_a_login() -> None:
    command, environment = mlflow()
    assert command[-2:] == ["--app-name", "basic-auth"]
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= environment.keys()
    folder, _, name = str(environment["MLFLOW_AUTH_CONFIG_PATH"]).rpartition("/")
    (pod,) = [pod for pod_name, pod in pods() if pod_name == "mlflow"]
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "auth"]
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        assert {"name": "auth", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    settings = ConfigParser()
    settings.read_string(named("ConfigMap")[volume["configMap"]["name"]]["data"][name])
    assert settings["mlflow"]["default_permission"] == "READ"
    assert settings["mlflow"]["database_uri"] == environment["MLFLOW_BACKEND_STORE_URI"]
    assert settings["mlflow"]["authorization_function"] == "mlflow.server.auth:authenticate_request_basic_auth"
    assert "admin_password" not in settings["mlflow"]


def statements() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((DEPLOY / "object-store").glob("*.json")):
        for statement in json.loads(file.read_text(encoding="utf-8"))["Statement"]:
            yield file.stem, statement


def test_each_key_of_the_object_store_has_a_policy_about_the_places_of_the_settings() -> None:
    stores = [name for name, secret in named("Secret").items() if "access-key" in secret.get("stringData", {})]
    told = [re.findall(r"deploy/object-store/(\w+)\.json", file.read_text()) for file in DEPLOY.glob("secrets/*.yaml")]
    assert sorted(policy for each in told for policy in each) == sorted({role for role, _ in statements()})
    assert len(stores) == len({role for role, _ in statements()})
    _, environment = mlflow()
    settings = named("ConfigMap")
    places = {
        "artifacts": settings["kfp-launcher"]["data"]["defaultPipelineRoot"],
        "training": settings["simipu-settings"]["data"]["SIMIPU_CHECKPOINTS"],
        "mlflow": environment["MLFLOW_ARTIFACTS_DESTINATION"],
    }
    written = {
        role: [arn.removeprefix("arn:aws:s3:::") for arn in statement["Resource"]]
        for role, statement in statements()
        if "s3:PutObject" in statement["Action"]
    }
    assert written == {role: [f"{str(place).removeprefix('s3://')}/*"] for role, place in places.items()}
    for _, statement in statements():
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in statement["Action"])


def test_no_address_holds_a_password() -> None:
    for file in FILES:
        assert not re.search(r"://[^\s@/]*:[^\s/]*@", file.read_text(encoding="utf-8")), file


LOGINS = {"simipu-steps": "simipu-mlflow", "simipu-evaluate": "simipu-mlflow-evaluate"}
"""Secrets of the steps' logins at MLflow, by user."""


def is_login(secret: str) -> bool:
    return secret.startswith(("simipu-mlflow", "mlflow-admin", SERVER))


def test_the_promoters_login_is_no_secret_of_the_cluster() -> None:
    assert set(LOGINS.values()) | {"mlflow-admin", SERVER} == {name for name in named("Secret") if is_login(name)}
    for _, container in containers():
        taken = {variable["valueFrom"]["secretKeyRef"]["name"] for variable in container["env"] if _is_secret(variable)}
        assert not taken & set(LOGINS.values())


def test_each_role_has_its_own_key_and_login() -> None:
    cluster = load_cluster(ROOT / "cluster.yaml")
    given = {step: {source.name for source in cluster.secrets_of(step)} for step in COMPONENTS}
    data, training = ({f"simipu-{role}-store", "simipu-mlflow"} for role in ("data", "training"))
    assert given == {
        "configure": set(),
        "ingest": data,
        "pair": data,
        "pretrain": training,
        "finetune": training,
        "evaluate": {"simipu-mlflow-evaluate"},
        "table": {"simipu-mlflow"},
    }
    assert set().union(*given.values()) <= set(named("Secret"))
    served = {str(_secret(variable)) for _, container in containers() for variable in container["env"]}
    assert "mlflow-object-store" in served
    assert not served & set().union(*given.values())


def _secret(variable: dict[str, Any]) -> str | None:
    return variable["valueFrom"]["secretKeyRef"]["name"] if _is_secret(variable) else None


def _is_secret(variable: dict[str, Any]) -> bool:
    return "secretKeyRef" in variable.get("valueFrom", {})


def test_only_what_is_allowed_goes_in_and_out_of_mlflow_and_its_database() -> None:
    policies = {name: policy["spec"] for name, policy in named("NetworkPolicy").items()}
    deny = policies.pop("mlflow-default-deny")
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert deny.keys() == {"podSelector", "policyTypes"}
    (selected,) = deny["podSelector"]["matchExpressions"]
    assert {*selected["values"], SERVER} == {pod["metadata"]["labels"][selected["key"]] for _, pod in pods()}
    assert set(policies[SERVER]["policyTypes"]) == {"Ingress", "Egress"}
    for name, policy in policies.items():
        (container,) = next(pod for pod_name, pod in pods() if pod_name == name)["spec"]["containers"]
        (entry,) = policy["ingress"]
        assert [port["port"] for port in entry["ports"]] == [port["containerPort"] for port in container["ports"]]
        assert all(source["podSelector"]["matchLabels"] for source in entry["from"])
    (steps,) = policies["mlflow"]["ingress"][0]["from"]
    assert steps["podSelector"]["matchLabels"].items() <= load_cluster(ROOT / "cluster.yaml").labels.items()
    (database,) = policies["mlflow-postgres"]["ingress"][0]["from"]
    (server,) = [pod for name, pod in pods() if name == "mlflow"]
    assert database["podSelector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    assert not steps["podSelector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    store = urlsplit(named("ConfigMap")["simipu-settings"]["data"]["AWS_ENDPOINT_URL"])
    allowed = {port["port"] for rule in policies["mlflow"]["egress"] if "to" not in rule for port in rule["ports"]}
    assert store.port in allowed
    assert "egress" not in policies["mlflow-postgres"]


# -- policies of admission --------------------------------------------------------------------------------------------


def policy(name: str) -> dict[str, Any]:
    return read(POLICIES / f"{name}.yaml")


@pytest.mark.parametrize("name", ["pods", "train-jobs"])
def test_a_policy_is_bound_to_the_namespaces_of_the_steps(name: str) -> None:
    binding, bound = policy(f"{name}-binding"), policy(name)
    assert binding["kind"] == f"{bound['kind']}Binding"
    assert binding["apiVersion"] == bound["apiVersion"] == "admissionregistration.k8s.io/v1"
    assert binding["spec"]["policyName"] == bound["metadata"]["name"]
    (selected,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert set(selected["values"]) == set(OVERLAYS.values())
    assert bound["spec"]["failurePolicy"] == "Fail"


def test_the_policy_of_pods_is_about_the_label_that_cluster_yaml_gives() -> None:
    labels = policy("pods")["spec"]["matchConstraints"]["objectSelector"]["matchLabels"]
    assert labels.items() <= load_cluster(ROOT / "cluster.yaml").labels.items()
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    made = mutated(pod, policy("pods"))
    assert violations(made) == ["containers[main]: capabilities are not all dropped"]  # Kubeflow's server does that
    assert made["spec"]["containers"][0]["image"] == "x"
    assert mutated({**pod, "metadata": {"labels": {}}}, policy("pods")) == {**pod, "metadata": {"labels": {}}}


def train_job(**changes: Any) -> dict[str, Any]:
    variable = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "simipu-training-store", "key": "access-key"}}}
    others = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]
    runtime = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "simipu"}
    spec = {"runtimeRef": runtime, "trainer": {"env": [variable, *others]}, **changes}
    return {"metadata": {"name": "job"}, "spec": spec}


def pods_of_job(**spec: Any) -> dict[str, Any]:
    jobs = [{"name": "node", "template": {"spec": {"template": {"metadata": {}, "spec": spec}}}}]
    patch = {"manager": "simipu", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    return train_job(runtimePatches=[patch])


FOREIGN = [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "mlflow-admin", "key": "password"}}}]


@pytest.mark.parametrize(
    ("job", "is_allowed"),
    [
        (train_job(), True),
        (train_job(trainer={}), True),
        (pods_of_job(securityContext={"runAsUser": 1000}, imagePullSecrets=[{"name": "registry-login"}]), True),
        (train_job(runtimeRef={"kind": "ClusterTrainingRuntime", "name": "torch-distributed"}), False),
        (train_job(trainer={"env": FOREIGN}), False),
        (train_job(initializer={"dataset": {}}), False),
        (pods_of_job(volumes=[{"name": "all", "secret": {"secretName": "mlflow-admin"}}]), False),
        (pods_of_job(containers=[{"name": "node", "env": FOREIGN}]), False),
        (pods_of_job(initContainers=[{"name": "x"}]), False),
        (pods_of_job(serviceAccountName="default-editor"), False),
    ],
)
def test_a_step_starts_no_pods_with_secrets_of_others(job: dict[str, Any], is_allowed: bool) -> None:
    rules = policy("train-jobs")["spec"]
    assert all(holds(rule["expression"], object=job) for rule in rules["validations"]) == is_allowed
    (condition,) = rules["matchConditions"]
    for groups, is_a_step in ((["system:serviceaccounts", "system:serviceaccounts:team-a"], True), (["people"], False)):
        request = {"namespace": "team-a", "userInfo": {"groups": groups}}
        assert holds(condition["expression"], request=request) == is_a_step


def test_the_secrets_of_training_are_those_that_its_train_jobs_name() -> None:
    cluster = load_cluster(ROOT / "cluster.yaml")
    used = {source.name for step in ("pretrain", "finetune") for source in cluster.secrets_of(step)}
    (rule,) = [each for each in policy("train-jobs")["spec"]["validations"] if "secretKeyRef" in each["expression"]]
    assert used == set(re.findall(r'"(simipu-[\w-]+)"', rule["expression"]))
