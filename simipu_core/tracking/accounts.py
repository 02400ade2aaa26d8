"""Logins of an MLflow that asks for them: of the steps, of the step that registers, of who promotes, of who serves.

All steps may record runs. One of them, or all where it has no login of its own, may register versions and set their
tags and aliases. Only the promoter may write the promotion log, and only an administrator may delete from it. The
server of the champion may read, as everybody with a login.
"""

from collections.abc import Mapping
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import verify_rest_response

from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.tracking.identity import ask, login
from simipu_core.tracking.mlflow_run import connect, find_experiment, mlflow_errors, tracking_uri
from simipu_core.tracking.promotion_log import log_name, make_log
from simipu_core.tracking.registry import make_model

STEPS, EVALUATE, PROMOTER, SERVING = "simipu-steps", "simipu-evaluate", "simipu-promoter", "simipu-serving"
_USERS, _PERMISSIONS = "/api/2.0/mlflow/users", "/api/3.0/mlflow/users/permissions"


def set_up(config: TrackingConfig, passwords: Mapping[str, Path]) -> None:
    """Make the users or give them new passwords, and make and share what they need; may be repeated.

    Args:
        config: names of the MLflow experiment and of the registered model.
        passwords: file that holds the password, by user. Without `EVALUATE` the other steps register too.

    Raises:
        SimipuError: a file cannot be read, MLflow knows no users, or this login is no administrator's.
    """
    known = {user: _password(file) for user, file in passwords.items()}
    client = connect()
    with mlflow_errors():
        if login() is None:
            raise SimipuError(f"MLflow at {tracking_uri()} knows no users; start it with --app-name basic-auth.")
        for user, password in known.items():
            _make_user(user, password)
        experiment = find_experiment(client, config.mlflow_experiment)
        make_model(client, config.model_name)
        make_log(client, config.model_name)
        for user, kind, name, permission in (
            (STEPS, "experiment", experiment, "EDIT"),
            (STEPS, "registered_model", config.model_name, "READ" if EVALUATE in known else "EDIT"),
            (STEPS, "registered_model", log_name(config.model_name), "READ"),
            (EVALUATE, "experiment", experiment, "EDIT"),
            (EVALUATE, "registered_model", config.model_name, "EDIT"),
            (EVALUATE, "registered_model", log_name(config.model_name), "READ"),
            (PROMOTER, "registered_model", config.model_name, "MANAGE"),
            (PROMOTER, "registered_model", log_name(config.model_name), "EDIT"),
        ):
            if user in known:
                _grant(permission, username=user, resource_type=kind, resource_id=name)


def _password(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").strip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SimipuError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if len(password) < 12:
        raise SimipuError(f"{file}: a password has at least 12 characters; write a longer one.")
    return password


def _make_user(user: str, password: str) -> None:
    try:
        _request(f"{_USERS}/create", "POST", {"username": user, "password": password})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        _request(f"{_USERS}/update-password", "PATCH", {"username": user, "password": password})


def _grant(permission: str, **what: str) -> None:
    try:
        _request(f"{_PERMISSIONS}/grant", "POST", {**what, "permission": permission})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        _request(f"{_PERMISSIONS}/revoke", "POST", what)
        _request(f"{_PERMISSIONS}/grant", "POST", {**what, "permission": permission})


def _request(endpoint: str, method: str, content: Mapping[str, str]) -> None:
    verify_rest_response(ask(endpoint, method, content), endpoint)
