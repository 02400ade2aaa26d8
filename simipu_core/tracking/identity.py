"""Who promotes: the login at MLflow, where it asks for one, beside what somebody says of himself."""

import getpass
import os
import socket

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from simipu_core.tracking.mlflow_run import tracking_uri

_CURRENT_USER = "/api/2.0/mlflow/users/current"


def author(claim: str | None = None) -> str:
    """Name for the promotion log: ``LOGIN (CLAIM)``, or the claim alone where MLflow knows no logins.

    Args:
        claim: who acts by the caller's word; ``SIMIPU_USER`` or user@machine by default.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    claim = claim or os.environ.get("SIMIPU_USER") or _account()
    found = login()
    return f"{found} ({claim})" if found and found != claim else claim


def login() -> str | None:
    """The user that MLflow takes this process for; None where it knows no users.

    Raises:
        MlflowException: the server does not answer, or refuses the login.
    """
    uri = tracking_uri()
    if not uri.startswith("http"):
        return None
    answer = http_request(get_default_host_creds(uri), _CURRENT_USER, "GET", raise_on_status=False)
    if answer.status_code in (401, 403):
        raise MlflowException("the login is refused", error_code=UNAUTHENTICATED)
    try:
        name = answer.json()["user"]["username"] if answer.status_code == 200 else None
    except (ValueError, KeyError, TypeError):  # another program's page: a server without users answers so too
        return None
    return name if isinstance(name, str) else None


def _account() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers often run under a number without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
