"""The compiled pipeline."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from pipelines.argo import workflow
from pipelines.cluster import Cluster
from pipelines.fields import expanded
from pipelines.rows import Rows, as_rows, title
from pipelines.simipu import pipeline
from pipelines.tasks import NAME
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, write_file
from simipu_core.redaction import holds_secret


def write(rows: Rows, file: Path, cluster: Cluster | None = None) -> None:
    """Compile to Kubeflow IR YAML; the same experiments, code, settings and image give the same bytes.

    Args:
        rows: one experiment, or those of a sweep; their settings are compiled in or become defaults of the form.
        file: file to write.
        cluster: where the steps run; None leaves resources, secrets and retries out.

    Raises:
        SimipuError: the image is not pinned, the experiments do not go into one sweep, or the file cannot be written.
    """
    _write(file, _documents(rows, cluster))


def write_manifest(rows: Rows, file: Path, cluster: Cluster) -> None:
    """Write the Kubernetes resources Pipeline and PipelineVersion, for clusters that Git describes.

    The version is named after its content, so that the same content is the same version.

    Raises:
        SimipuError: the image is not pinned, the experiments do not go into one sweep, or the file cannot be written.
    """
    plain = yaml.dump_all(_documents(rows, cluster), Dumper=yaml.CSafeDumper)
    version = f"{NAME}-{title(rows).replace('_', '-')}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"
    options = KubernetesManifestOptions(
        pipeline_name=NAME,
        pipeline_version_name=version,
        namespace=cluster.namespace,
        include_pipeline_manifest=True,
    )
    _write(file, _documents(rows, cluster, kubernetes_manifest_format=True, kubernetes_manifest_options=options))


def write_argo(rows: Rows, file: Path, cluster: Cluster) -> None:
    """Write a plain Argo Workflow, which needs no Kubeflow.

    Raises:
        SimipuError: the image is not pinned, the experiments do not go into one sweep, training is to be on several
            nodes, or the file cannot be written.
    """
    _write(file, [workflow(_documents(rows, cluster), title(rows), cluster)])


def _documents(rows: Rows, cluster: Cluster | None, **how: Any) -> list[Any]:
    _check(rows)
    with ThreadPoolExecutor(1) as thread:  # of short stack: KFP looks up the source of all callers again and again
        return thread.submit(_compiled, rows, cluster, how).result()


def _check(rows: Rows) -> None:
    """Refuse settings that would make a secret public, or that the cluster would expand.

    Raises:
        SimipuError: naming the setting.
    """
    for row in as_rows(rows):
        for key, text in _texts(row.model_dump(mode="json"), ""):
            if holds_secret(text):
                raise SimipuError(
                    f"{key} holds a login, and whoever sees the pipeline would see it too: put the login into a secret "
                    "that cluster.yaml names."
                )
            if found := expanded(text):
                raise SimipuError(f"{key}: {text} holds {found}, which Argo or Kubernetes would replace; leave it out.")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All texts in plain values, keys of mappings apart, each with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


def _compiled(rows: Rows, cluster: Cluster | None, how: Mapping[str, Any]) -> list[Any]:
    made = pipeline(rows, cluster)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        Compiler().compile(made, str(compiled), **how)
        return list(yaml.load_all(compiled.read_text(encoding="utf-8"), yaml.CSafeLoader))


def _write(file: Path, documents: list[Any]) -> None:
    text = yaml.dump_all(documents, Dumper=yaml.CSafeDumper)  # without comments, whose order varies
    with disk_errors(file):
        write_file(file, text.encode())
