"""Who promotes: the login at MLflow, where it asks for one, beside what somebody says of himself."""

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import UNAUTHENTICATED
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

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
    if not tracking_uri().startswith("http"):
        return None
    answer = ask(_CURRENT_USER, "GET")
    if answer.status_code in (401, 403):
        raise MlflowException("the login is refused", error_code=UNAUTHENTICATED)
    if answer.status_code == 404:
        return None
    try:
        return str(verify_rest_response(answer, _CURRENT_USER).json()["user"]["username"])
    except (ValueError, KeyError, TypeError):
        raise MlflowException("it does not say whom it takes this process for") from None


def ask(endpoint: str, method: str, content: Mapping[str, str] | None = None) -> Any:
    """Make a request that MLflow's client has no method for, with its login and settings.

    Returns:
        the `requests.Response`, whatever its status.

    Raises:
        MlflowException: the server does not answer.
    """
    given = {"json": dict(content)} if content else {}
    credentials = get_default_host_creds(tracking_uri())  # type: ignore[no-untyped-call]
    return http_request(credentials, endpoint, method, raise_on_status=False, **given)  # type: ignore[no-untyped-call]


def _account() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers often run under a number without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
