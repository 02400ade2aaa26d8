"""``cluster.yaml``: where the steps of the pipeline run on a Kubernetes cluster, and with what."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from kubernetes.utils.quantity import parse_quantity
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from pipelines import fields
from simipu_core.config import validate
from simipu_core.config.section import Section
from simipu_core.config.validation import describe
from simipu_core.errors import SimipuError
from simipu_core.redaction import holds_secret, is_secret_name
from simipu_core.yaml_files import read_yaml

Component = Literal["configure", "ingest", "pair", "pretrain", "finetune", "evaluate", "table"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
TRAINING = ("pretrain", "finetune")
_WITHOUT_TORCH = ("configure", "ingest", "pair")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DIGEST = re.compile(r"[\w./:-]+@sha256:[0-9a-f]{64}", re.ASCII)
_REVISION = re.compile(r"[\w./:-]+:[0-9a-f]{7,40}", re.ASCII)
_MOST_SECONDS = 2**31 - 1


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]+)([smhd])", value)):
        return int(found[1]) * _UNITS[found[2]]
    return value


def _is_quantity(value: str) -> str:
    try:
        parse_quantity(value)
    except ValueError:
        raise ValueError("write a Kubernetes quantity such as 500m, 16 or 64Gi") from None
    return value


Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=1, le=_MOST_SECONDS)]
"""Seconds; also written 90s, 30m, 12h or 7d."""
Cpu = Annotated[fields.Cores, BeforeValidator(str)]


class Toleration(Section):
    """Lets pods onto nodes that keep others away."""

    key: fields.LabelKey
    """Taint's key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """`Exists` matches any value."""
    value: fields.LabelValue | None = None
    """With `Equal`: the taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """null matches all effects."""

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("operator Equal and a value go together")
        return self


class Retry(Section):
    """What happens after an interruption.

    Training steps retry within themselves (simipu_core/stages/attempts.py); for the others, and for pods that are
    lost, the server decides which failures it retries (docs/kubeflow.md).
    """

    times: int = Field(2, ge=0, le=20)
    """Further attempts in one run, wherever they are made; training goes on from its last checkpoint."""
    wait: Duration = 60
    """Before the first of them."""
    factor: int = Field(2, ge=1, le=100)
    """By which each wait is longer than the one before; Kubeflow takes whole numbers only."""
    within: Duration = 7 * 86400
    """No attempt begins later than this after the first one did. Kubeflow's own default is one hour."""


class StepSettings(Section):
    """One step's share of the cluster."""

    cpu_request: Cpu = "2"
    """Cores that are reserved."""
    cpu_limit: Cpu | None = None
    """Cores at most; null sets no bound."""
    memory_request: fields.Bytes = "8Gi"
    """Memory that is reserved."""
    memory_limit: fields.Bytes = "16Gi"
    """Memory at most, shared memory included; beyond it the container is killed."""
    gpus: int = Field(0, ge=0, le=64)
    """GPUs of one node. Training starts a process for each."""
    nodes: int = Field(1, ge=1, le=64)
    """Nodes that train together, in pretrain and finetune, by a TrainJob of Kubeflow Trainer 2.2 or newer; amounts are
    those of one node. Node selector, tolerations, shm and scratch are then the training runtime's own."""
    gpu_resource: fields.Resource = "nvidia.com/gpu"
    """Resource name under which the cluster hands out GPUs of the wanted type."""
    shm: fields.Bytes | None = "2Gi"
    """Size of /dev/shm, through which loader processes pass batches; part of the memory limit. null leaves the
    runtime's 64 MB, with which loader processes die."""
    scratch: fields.Bytes | None = None
    """Size of a folder on the node's disk for temporary files (TMPDIR); a step that writes more is evicted."""
    timeout: Duration = 86400
    """Longest time of one pod, with all attempts in it, or of one TrainJob."""
    retry: Retry = Retry()
    """After a failure."""
    node_selector: dict[fields.LabelKey, fields.LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that do not keep the step away."""
    labels: dict[fields.PodLabel, fields.LabelValue] = Field(default_factory=dict)
    """Further labels of the pod."""

    @field_validator("cpu_request", "cpu_limit", "memory_request", "memory_limit", "shm", "scratch")
    @classmethod
    def _quantities(cls, value: str | None) -> str | None:
        return value if value is None else _is_quantity(value)

    @model_validator(mode="after")
    def _amounts_fit(self) -> Self:
        for name in ("cpu", "memory"):
            request, limit = getattr(self, f"{name}_request"), getattr(self, f"{name}_limit")
            if limit is not None and parse_quantity(request) > parse_quantity(limit):
                raise ValueError(f"{name}_request {request} exceeds {name}_limit {limit}")
        if self.shm is not None and parse_quantity(self.shm) >= parse_quantity(self.memory_limit):
            raise ValueError(
                f"shm {self.shm} must be smaller than memory_limit {self.memory_limit}, of which it is part"
            )
        if self.retry.times and self.retry.within <= self.timeout:
            raise ValueError(
                f"retry.within ({self.retry.within} s) must exceed timeout ({self.timeout} s), or an attempt that "
                "failed late would never be repeated"
            )
        return self


class EnvironmentFrom(Section):
    """Environment variables out of a secret or config map, which holds the values."""

    name: fields.Name
    """Name of the secret or config map, in the namespace of the run."""
    keys: dict[fields.SourcedVariable, fields.SourceKey] = Field(min_length=1)
    """Environment variable → key."""
    optional: bool = False
    """Whether steps also start where it does not exist."""
    steps: tuple[Component, ...] = ()
    """Steps that get them; where none is named, all do."""

    @model_validator(mode="after")
    def _keys_once(self) -> Self:
        if len(set(self.keys.values())) < len(self.keys):
            raise ValueError(f"{self.name}: two variables have one key")
        return self


class TrainingRuntime(Section):
    """Template of the pods of training on several nodes, a resource of Kubeflow Trainer's."""

    name: fields.Name = "simipu"
    """Its name; that of deploy/trainer/runtime.yaml by default."""
    kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    """Whether it is in the namespace of the run or of the cluster."""


class PodUser(Section):
    """Who the steps run as."""

    user: fields.UserId = 1000
    """Numeric user, never root."""
    group: fields.UserId | None = 1000
    """Numeric group."""


_DEFAULTS: dict[str, dict[str, Any]] = {
    "configure": {
        "cpu_request": "100m",
        "memory_request": "512Mi",
        "memory_limit": "1Gi",
        "shm": None,
        "timeout": "10m",
    },
    "table": {"cpu_request": "100m", "memory_request": "512Mi", "memory_limit": "1Gi", "shm": None, "timeout": "10m"},
    "pretrain": {
        "gpus": 1,
        "cpu_request": "8",
        "memory_request": "48Gi",
        "memory_limit": "64Gi",
        "shm": "16Gi",
        "timeout": "4d",
    },
    "finetune": {
        "gpus": 1,
        "cpu_request": "8",
        "memory_request": "32Gi",
        "memory_limit": "48Gi",
        "shm": "16Gi",
        "timeout": "4d",
    },
    "evaluate": {"gpus": 1, "cpu_request": "4", "memory_request": "16Gi", "memory_limit": "24Gi"},
}


def settings_of(function: str) -> Component:
    """Below which key of `steps` a component's settings stand: `finetune_from_start` below `finetune`."""
    return next(name for name in COMPONENTS if f"{function}_".startswith(f"{name}_"))


class Cluster(Section):
    """``cluster.yaml``."""

    image: str | None = None
    """Image of all steps, by digest (name@sha256:…)."""
    data_image: str | None = None
    """Smaller image of configure, ingest and pair, which need no PyTorch; null takes `image`."""
    allow_revision_tag: bool = False
    """Also accept an image by the tag of a git revision (7 to 40 hexadecimal digits), for registries where such a tag
    is never moved."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes fetch the image; that of training on several nodes is set in the training runtime."""
    pull_secrets: tuple[fields.Name, ...] = ()
    """Secrets with which nodes fetch it."""
    namespace: fields.Namespace | None = None
    """Namespace that the manifests of Kubernetes and Argo name; Kubeflow's client is told by `--namespace`."""
    service_account: fields.Name | None = "simipu"
    """With Argo: account of the pods, by default that of deploy/argo; null takes the namespace's own. With Kubeflow it
    is chosen when a run is started."""
    run_as: PodUser = PodUser()
    """Who the steps run as."""
    environment: dict[fields.Variable, fields.Plain] = Field(default_factory=dict)
    """Plain environment variables of all steps. Nothing secret: they stand in the compiled pipeline."""
    config_maps: tuple[EnvironmentFrom, ...] = ()
    """Environment variables out of config maps: MLflow's address, the object store's, the place of checkpoints."""
    secrets: tuple[EnvironmentFrom, ...] = ()
    """Environment variables out of secrets: credentials, for each role its own (docs/kubeflow.md)."""
    keep_finished: Duration = 7 * 86400
    """How long the workflow and its pods are kept after the end, for their logs."""
    labels: dict[fields.PodLabel, fields.LabelValue] = Field(default_factory=dict)
    """Labels of all pods."""
    training_runtime: TrainingRuntime = TrainingRuntime()
    """Where steps have several nodes: what their pods are made from."""
    data: dict[fields.Plain, fields.Plain] = Field(default_factory=dict)
    """Addresses of raw data by `root` of the experiments, which the form then offers."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """What all steps get, unless `steps` says otherwise; keys as below `steps`."""
    steps: dict[Component, dict[str, Any]] = Field(default_factory=dict)
    """What single steps get."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> Self:
        if "gpus" in self.defaults:
            raise ValueError("defaults.gpus: not every step needs a GPU; set it below steps")
        for component in sorted(_DEFAULTS.keys() | self.steps.keys() | {"ingest"}):
            if self.step(component).nodes > 1:
                self._check_nodes(component)
        for name, value in self.environment.items():
            if is_secret_name(name):
                raise ValueError(f"environment.{name} is a secret: put it into one and name that under secrets")
            if holds_secret(value):
                raise ValueError(f"environment.{name} holds a login: put the login into a secret, named under secrets")
        for name, address in self.data.items():
            if holds_secret(address):
                raise ValueError(f"data.{name} holds a login: put the login into a secret, named under secrets")
        for component in COMPONENTS:
            sources = (*self.config_maps_of(component), *self.secrets_of(component))
            variables = [*self.environment, *(variable for source in sources for variable in source.keys)]
            if twice := next((name for name in variables if variables.count(name) > 1), None):
                raise ValueError(
                    f"{twice} is given twice to {component}, and Kubernetes refuses such a pod: name it in one place "
                    "only, or each time for other steps"
                )
        return self

    def _check_nodes(self, component: str) -> None:
        if component not in TRAINING:
            raise ValueError(f"steps.{component}.nodes: only {' and '.join(TRAINING)} can use more than one node")
        maps = self.config_maps_of(component)
        variables = [*self.environment, *(variable for source in maps for variable in source.keys)]
        if "SIMIPU_CHECKPOINTS" not in variables:
            raise ValueError(f"steps.{component}.nodes: name SIMIPU_CHECKPOINTS, s3://bucket/prefix, under config_maps")

    def step(self, component: str) -> StepSettings:
        """Settings of one component: our defaults, under `defaults`, under `steps`."""
        own = self.steps.get(component, {})  # type: ignore[call-overload]
        values = {**_DEFAULTS.get(component, {}), **self.defaults, **own}
        try:
            return StepSettings.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            first = next(iter(problem["loc"]), None)
            place = "defaults" if first in self.defaults and first not in own else f"steps.{component}"
            key = ".".join(str(part) for part in (place, *problem["loc"]))
            raise ValueError(describe(problem, values, key)) from None

    def config_maps_of(self, component: str) -> list[EnvironmentFrom]:
        """Config maps that a component gets variables out of."""
        return [source for source in self.config_maps if not source.steps or component in source.steps]

    def secrets_of(self, component: str) -> list[EnvironmentFrom]:
        """Secrets that a component gets variables out of."""
        return [source for source in self.secrets if not source.steps or component in source.steps]

    def image_of(self, component: str) -> str:
        """Image of a component, whose name says for good what it holds.

        Raises:
            SimipuError: there is none, or its tag can be moved, with which Kubeflow would serve results of older code
                from its cache.
        """
        chosen = (self.data_image if component in _WITHOUT_TORCH else None) or self.image
        if not chosen:
            raise SimipuError("no image: give --image name@sha256:…, set SIMIPU_IMAGE, or name it in cluster.yaml.")
        if _DIGEST.fullmatch(chosen) or (self.allow_revision_tag and _REVISION.fullmatch(chosen)):
            return chosen
        also = ", or by a git revision's tag" if self.allow_revision_tag else ""
        raise SimipuError(
            f"image {chosen}: its tag can be moved, and cached results of older code would be taken for new ones; name "
            f"it by digest (name@sha256:…){also}."
        )


def load_cluster(path: Path, image: str | None = None, data_image: str | None = None) -> Cluster:
    """Read and validate ``cluster.yaml``.

    Args:
        path: the file.
        image: comes before the one that the file names, and before its data_image too, which may be of other code.
        data_image: comes before the one that the file names.

    Raises:
        SimipuError: the file is missing or not YAML, or a key or value is refused; the message names it.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise SimipuError(f"{path}: no such file; copy cluster.yaml of this project and fill it in.") from None
    except SimipuError as error:
        raise SimipuError(f"{path}: {error}; mend the file.") from None
    cluster = validate(Cluster, values or {}, str(path))
    if image:
        return cluster.model_copy(update={"image": image, "data_image": data_image})
    return cluster.model_copy(update={"data_image": data_image or cluster.data_image})
