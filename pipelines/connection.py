"""Where Kubeflow Pipelines is and who asks: address, namespace and credential.

A credential comes from the environment, never from the command line, where others could read it:

* ``KFP_TOKEN`` or ``KFP_TOKEN_FILE``: bearer token; the file is read for every request, so a renewed token is used.
* ``KFP_COOKIE`` or ``KFP_COOKIE_FILE``: cookie of a session, as a browser sends it after the login through Dex.
* in a pod, the projected service account token (``KF_PIPELINES_SA_TOKEN_PATH``, or where Kubeflow mounts it).
* none of them: an open endpoint, e.g. a port forwarded from the cluster.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from simipu_core.errors import SimipuError
from simipu_core.redaction import without_userinfo

ENDPOINT, SDK_ENDPOINT = "KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT"
NAMESPACE = "KFP_NAMESPACE"
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_SERVICE_ACCOUNT_PATH = "KF_PIPELINES_SA_TOKEN_PATH"
_SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 (a path)
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Credential:
    """What the server is shown with every request."""

    kind: Literal["token", "cookie", "none"]
    source: str
    """Where it comes from, for messages."""
    read: Callable[[], str] = field(default=str, repr=False)
    """Gives the secret as it is now."""

    def headers(self) -> dict[str, str]:
        """Headers of a request.

        Raises:
            SimipuError: the file cannot be read, or what it holds cannot be sent.
        """
        if self.kind == "none":
            return {}
        secret = self.read().strip()
        if self.kind == "token":
            secret = secret.removeprefix("Bearer ").strip()
        spaces = self.kind == "token" and any(character.isspace() for character in secret)
        if not secret or spaces or not (secret.isascii() and secret.isprintable()):
            raise SimipuError(
                f"{self.source}: holds no {self.kind} (it is empty, or has characters no {self.kind} has)."
            )
        return {"Authorization": f"Bearer {secret}"} if self.kind == "token" else {"Cookie": secret}


OPEN = Credential("none", "no credential")


@dataclass(frozen=True)
class Connection:
    """How to reach the API server."""

    host: str
    """Address under which ``/apis/v2beta1`` lies, without a slash at the end."""
    namespace: str | None = None
    credential: Credential = OPEN
    ca_file: Path | None = None
    """CA certificates in PEM form that sign the server's; None for the public ones."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    """Without any byte of an answer."""
    longest_s: float = 120.0
    """For a whole request."""

    @property
    def ui(self) -> str:
        """Address of the Kubeflow Pipelines UI."""
        return without_userinfo(os.environ.get("KF_PIPELINES_UI_ENDPOINT", self.host)).rstrip("/")


def find(host: str | None = None, namespace: str | None = None) -> Connection:
    """The connection that the options and the environment name.

    Args:
        host: address; else ``KFP_ENDPOINT``, ``KF_PIPELINES_ENDPOINT``, or in a pod the cluster's own service.
        namespace: Kubernetes namespace; else ``KFP_NAMESPACE``, or in a pod the pod's own.

    Raises:
        SimipuError: there is no address, it is malformed, or two credentials are given.
    """
    ca_file = os.environ.get("KFP_CA_FILE")
    if ca_file and not Path(ca_file).is_file():
        raise SimipuError(f"KFP_CA_FILE: there is no file {ca_file}.")
    return Connection(
        host=_address(host or os.environ.get(ENDPOINT) or os.environ.get(SDK_ENDPOINT)),
        namespace=namespace or os.environ.get(NAMESPACE) or _own_namespace(),
        credential=_credential(),
        ca_file=Path(ca_file) if ca_file else None,
    )


def _address(host: str | None) -> str:
    if not host:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            return _IN_CLUSTER
        raise SimipuError(
            f"where is Kubeflow Pipelines? Give --host or set {ENDPOINT}, e.g. https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 after `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`."
        )
    if "://" not in host:
        host = f"https://{host}"
    if "@" in re.split(r"[/?#]", host.split("://", 1)[1])[0]:
        raise SimipuError("--host: leave user and password out of the address; set KFP_TOKEN or KFP_COOKIE.")
    try:
        parts = urlsplit(host)
        known = parts.scheme in ("http", "https") and _is_machine(parts.hostname or "") and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise SimipuError(f"--host: {host} is no address; it begins with https:// or http:// and names a machine.")
    path = parts.path.replace("/_/", "/").rstrip("/")  # the dashboard shows /pipeline as /_/pipeline
    return f"{parts.scheme}://{parts.netloc}{path}"  # without what a browser shows after # or ?


def _is_machine(name: str) -> bool:
    """Whether it is a name or an IP address."""
    if ":" in name:
        IPv6Address(name)
        return True
    return bool(_NAME.fullmatch(name.encode("idna").decode()))


def _own_namespace() -> str | None:
    file = _SERVICE_ACCOUNT_NAMESPACE
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def _credential() -> Credential:
    names = ("KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_COOKIE", "KFP_COOKIE_FILE")
    given = [name for name in names if os.environ.get(name)]
    if len(given) > 1:
        raise SimipuError(f"{given[0]} and {given[1]} are both set; unset one, so that it is clear who asks.")
    if given:
        (source,) = given
        value = os.environ[source]
        read = _reader(source, Path(value)) if source.endswith("_FILE") else lambda: value
        return Credential("token" if "TOKEN" in source else "cookie", source, read)
    path = os.environ.get(_SERVICE_ACCOUNT_PATH) or _SERVICE_ACCOUNT_TOKEN
    if _SERVICE_ACCOUNT_PATH in os.environ or Path(path).is_file():
        return Credential("token", f"service account token {path}", _service_account(path))
    return OPEN


def _reader(source: str, file: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SimipuError(f"{source}: {file} cannot be read ({_reason(error)}).") from None

    return read


def _service_account(path: str) -> Callable[[], str]:
    def read() -> str:
        from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials  # takes seconds
        from kfp_server_api import Configuration

        settings = Configuration()
        try:
            ServiceAccountTokenVolumeCredentials(path).refresh_api_key_hook(settings)
        except (OSError, UnicodeDecodeError) as error:
            raise SimipuError(
                f"service account token {path}: cannot be read ({_reason(error)}); mount a projected volume with "
                "the audience pipelines.kubeflow.org there."
            ) from None
        return str(settings.api_key["authorization"])

    return read


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or "it is no text")
