"""Texts of ``cluster.yaml`` as Kubernetes takes them: what it would refuse, or expand, is refused here."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

_EXPANDED = re.compile(r"\{\{|\$\(")
PLACED = {"HOME", "PYTHONUNBUFFERED", "SIMIPU_CACHE", "SIMIPU_PROCESSES", "TMPDIR"}
"""Variables that the pipeline sets unless they stand under `environment`."""
TOLD = {
    "MLFLOW_RUN_ID",
    "SIMIPU_CALL",
    "SIMIPU_IMAGE",
    "SIMIPU_LAST_STEP",
    "SIMIPU_PIPELINE_RUN",
    "SIMIPU_RETRY",
    "SIMIPU_SERVICE_ACCOUNT",
    "SIMIPU_STEP",
    "SIMIPU_TRAIN_JOB",
    "SIMIPU_WORKFLOW_NODE",
}
"""Variables by which the pipeline tells steps what they are."""
_OWN_LABELS = ("pipeline/", "pipelines.kubeflow.org/", "workflows.argoproj.io/", "jobset.sigs.k8s.io/")
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def expanded(text: str) -> str | None:
    """What Argo (``{{``) or Kubernetes (``$(``) would replace in a text; None for nothing."""
    found = _EXPANDED.search(text)
    return found[0] if found else None


def _plain(text: str) -> str:
    if found := expanded(text):
        raise ValueError(f"holds {found}, which Argo or Kubernetes would replace; leave it out")
    return text


def _variable(name: str) -> str:
    if name in TOLD or name.startswith("PET_"):
        raise ValueError(f"{name} is set by the pipeline or by Kubeflow Trainer; leave it out")
    return name


def _sourced(name: str) -> str:
    if name in PLACED:
        raise ValueError(f"{name} is set by the pipeline, which only environment can change; name it there")
    return name


def _label(key: str) -> str:
    if key.startswith(_OWN_LABELS):
        raise ValueError(f"label {key} is set by Kubeflow or Argo; leave it out")
    return key


def _amount(quantity: str) -> str:
    if quantity.endswith("K"):
        raise ValueError("Kubernetes knows no K; write Ki")
    return quantity


Plain = Annotated[str, AfterValidator(_plain)]
"""What nothing expands."""
Variable = Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"), AfterValidator(_variable)]
"""Name of an environment variable."""
SourcedVariable = Annotated[Variable, AfterValidator(_sourced)]
"""One whose value comes from a secret or config map."""
SourceKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
"""Key of a secret or config map."""
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=rf"^{_SUBDOMAIN}$", max_length=253)]
"""Of a resource."""
LabelKey = Annotated[str, Field(pattern=rf"^({_SUBDOMAIN}/)?{_WORD}$", max_length=317)]
LabelValue = Annotated[str, Field(pattern=rf"^({_WORD})?$")]
PodLabel = Annotated[LabelKey, AfterValidator(_label)]
"""Key of a label that pods may be given."""
Resource = Annotated[str, Field(pattern=rf"^{_SUBDOMAIN}/{_WORD}$")]
"""Name of a resource that nodes hand out beside cpu and memory."""
Bytes = Annotated[str, Field(pattern=r"^[0-9]+([EPTGMK]i?)?$"), AfterValidator(_amount)]
Cores = Annotated[str, Field(pattern=r"^[0-9]*\.?[0-9]+m?$")]
UserId = Annotated[int, Field(ge=1, le=2**31 - 1)]
