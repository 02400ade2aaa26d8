"""Promotion and rollback of registered versions, by people and by the gate.

Aliases: `champion` is the version in use, `previous` the champion before it. They follow the promotion log
(:mod:`simipu_core.tracking.promotion_log`), which decides who was first.
"""

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.files import temporary_folder
from simipu_core.tracking import promotion_log
from simipu_core.tracking.champion import Champion
from simipu_core.tracking.delivery import with_retries
from simipu_core.tracking.mlflow_run import connect, mlflow_errors, tracking_uri
from simipu_core.tracking.promotion_log import History
from simipu_core.tracking.registry import (
    CHAMPION,
    FAILED,
    GATE_TAG,
    PASSED,
    PREVIOUS,
    REASON_TAG,
    WEIGHTS,
    ModelVersion,
)

_SETTLING = 3
_ATTEMPTS = 50


def who() -> str:
    """Name of the person who runs this: ``SIMIPU_USER``, or user@machine."""
    if name := os.environ.get("SIMIPU_USER"):
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # containers often run under a number without a name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def promote(version: int, config: TrackingConfig, *, reason: str = "", by: str | None = None) -> ModelVersion:
    """Make a version the champion, as a person's decision; the former champion becomes `previous`.

    Args:
        version: number of the registered version.
        config: names in the registry.
        reason: why; needed for a version that did not pass the gate.
        by: who decides; :func:`who` by default.

    Raises:
        SimipuError: there is no such version, or it did not pass the gate and no reason is stated.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        tags = _tags(client, name, version)
        if tags is None:
            raise SimipuError(f"{name} has no version {version}; `make models` lists the versions.")
        if tags.get(GATE_TAG) == FAILED and not reason:
            raise SimipuError(
                f"{name} version {version} did not pass the gate ({tags.get(REASON_TAG, 'no reason recorded')}); "
                "to promote it all the same, say why: --reason TEXT, or REASON=TEXT for make."
            )
        why = reason or (
            "passed the gate" if tags.get(GATE_TAG) == PASSED else "promoted by hand; the gate did not judge it"
        )
        for _ in range(_ATTEMPTS):
            past = history(client, name)
            if past.champion == version and not past.lost:
                break
            if _append(client, name, "promote", version, past, by or who(), why):
                break
        else:
            raise SimipuError(f"{name}: others keep promoting at the same time; see `make models`, then repeat.")
        _apply(client, name)
    return ModelVersion(name=name, version=version, alias=CHAMPION)


def promote_instead_of(
    champion: int | None, version: int, config: TrackingConfig, *, reason: str, by: str
) -> str | None:
    """Make a version the champion, as the gate's decision, if the champion is still the one it was compared with.

    Args:
        champion: version that was champion at the comparison; None if there was none.
        version: version that passed the gate.
        config: names in the registry.
        reason: the gate's sentence.
        by: the pipeline run.

    Returns:
        None when it is done, else the sentence that says why it is not.

    Raises:
        SimipuError: the server does not answer or refuses.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        past = history(client, name)
        if past.champion == version:  # by an attempt that was interrupted
            _apply(client, name)
            return None
        is_first = past.champion == champion and _append(client, name, "promote", version, past, by, reason)
        if not is_first:
            now = promotion_log.read(client, name).champion
            return f"version {now} became champion meanwhile; evaluate again to be compared with it"
        _apply(client, name)
    return None


def rollback(config: TrackingConfig, *, reason: str = "", by: str | None = None) -> tuple[ModelVersion, int]:
    """Make the champion's predecessor champion again.

    Repeated, it goes back further: the version that was left is no `previous`, and versions that were deleted are
    passed over.

    Args:
        config: names in the registry.
        reason: why.
        by: who decides; :func:`who` by default.

    Returns:
        the champion from now on, and the number of the version that was left.

    Raises:
        SimipuError: there is no earlier champion, or the champion changed at this very moment.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        past = history(client, name)
        left = past.champion
        earlier = [one for one in past.champions[:-1] if one != left and _tags(client, name, one) is not None]
        if left is None or not earlier:
            raise SimipuError(
                f"{name}: there is no earlier champion to go back to; `make promote VERSION=…` makes any one champion."
            )
        by, why = by or who(), reason or "rolled back by hand"
        if not _append(client, name, "rollback", earlier[-1], past, by, why):
            raise SimipuError(f"{name}: the champion changed at this moment; see `make models`, then repeat.")
        _apply(client, name)
        if _tags(client, name, left) is not None:
            _describe(client, name, left, "rolled_back", by, why)
    return ModelVersion(name=name, version=earlier[-1], alias=CHAMPION), left


def repair(config: TrackingConfig) -> None:
    """Set the aliases as the promotion log says.

    Raises:
        SimipuError: the champion's version was deleted.
    """
    client = connect()
    with mlflow_errors():
        _apply(client, config.model_name)


def problems(client: MlflowClient, name: str, past: History) -> list[str]:
    """What is wrong with the aliases and the log, one sentence each with a way on.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    found = []
    if past.lost:
        numbers = ", ".join(map(str, past.lost))
        found.append(
            f"{promotion_log.log_name(name)}: entries {numbers} were deleted, so it may name the wrong champion; "
            "`make promote VERSION=… REASON=…` settles it."
        )
    if past.champion is None:
        return found
    alias = _version_of(client, name, CHAMPION)
    if _tags(client, name, past.champion) is None:
        found.append(
            f"{name}: version {past.champion}, the champion since {past.entries[-1].at if past.entries else '?'}"
            ", was deleted; `make rollback` goes back to the champion before it, `make promote VERSION=…` chooses one."
        )
    elif alias != past.champion:
        now = f"is at version {alias}" if alias else "is missing"
        found.append(
            f"{name}: the alias champion {now}, but by the promotion log version {past.champion} is champion; "
            f"`simipu models --repair` sets it back, `make promote VERSION={alias or past.champion} REASON=…` makes "
            "the change official."
        )
    return found


@contextmanager
def champion(config: TrackingConfig) -> Iterator[Champion | None]:
    """The champion with its weights, which lie in a temporary folder inside the block; None where there is none.

    Only the safetensors file is fetched; no code of the registered model runs.

    Raises:
        SimipuError: the server does not answer or refuses.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        past, wrong = _settled(client, name)
        tags = _tags(client, name, past.champion) if past.champion else None
    if past.champion is None:
        yield None
    elif tags is None:
        yield Champion(past.champion, None, wrong[-1])
    else:
        with temporary_folder("champion") as folder:
            try:
                weights = _download(name, past.champion, tags, folder)
            except SimipuError as error:
                yield Champion(past.champion, None, str(error))
            else:
                yield Champion(past.champion, weights, wrong[0] if wrong else None)


def _settled(client: MlflowClient, name: str) -> tuple[History, list[str]]:
    """The history and its problems, those apart that are gone in a moment: entry and aliases are written in turn."""
    for attempt in range(_SETTLING):
        if attempt:
            time.sleep(1)
        past = history(client, name)
        wrong = problems(client, name, past)
        if not wrong:
            break
    return past, wrong


def _download(name: str, version: int, tags: dict[str, str], folder: Path) -> Path:
    try:
        file = Path(
            download_artifacts(f"models:/{name}/{version}/{WEIGHTS}", dst_path=str(folder), tracking_uri=tracking_uri())
        )
    except (MlflowException, OSError) as error:
        raise SimipuError(f"{name} version {version}: its weights cannot be fetched ({error}).") from None
    if not file.is_file() or tags.get("weights_sha256") not in (None, sha256_file(file)):
        raise SimipuError(f"{name} version {version}: its weights are not the ones that were registered.")
    return file


def history(client: MlflowClient, name: str) -> History:
    """The promotion log; where it is empty but the alias is set, the champion is the one that it names.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    logged = promotion_log.read(client, name)
    if not logged.entries and (found := _version_of(client, name, CHAMPION)):
        return History(champions=(found,))
    return logged


def _append(
    client: MlflowClient, name: str, action: promotion_log.Action, version: int, past: History, by: str, why: str
) -> bool:
    """Write to the log that a version becomes champion; whether nobody else changed the champion since `past`."""
    head: int | None = past.head
    if head == 0 and past.champion is not None:  # a champion from before the log: it must be known to roll back
        already = "was champion before this log began"
        head = promotion_log.append(client, name, "promote", past.champion, based_on=0, by="", why=already)
    if head is None:
        return False
    if promotion_log.append(client, name, action, version, based_on=head, by=by, why=why, lost=past.lost) is None:
        return False
    _describe(client, name, version, "promoted" if action == "promote" else "restored", by, why)
    return True


def _describe(client: MlflowClient, name: str, version: int, what: str, by: str, why: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for key, value in (("at", at), ("by", by), ("because", why)):
        with_retries(client.set_model_version_tag, name, str(version), f"{what}_{key}", value)


def _apply(client: MlflowClient, name: str) -> None:
    """Set the aliases as the log says, again until nobody has written to it meanwhile."""
    while True:
        past = history(client, name)
        if past.champion is None:
            return
        if _tags(client, name, past.champion) is None:
            raise SimipuError(problems(client, name, past)[-1])
        with_retries(client.set_registered_model_alias, name, CHAMPION, str(past.champion))
        earlier = [one for one in past.champions if one != past.champion and _tags(client, name, one) is not None]
        if earlier:
            with_retries(client.set_registered_model_alias, name, PREVIOUS, str(earlier[-1]))
        elif _version_of(client, name, PREVIOUS):
            with_retries(client.delete_registered_model_alias, name, PREVIOUS)
        if promotion_log.read(client, name).head == past.head:
            return


def _tags(client: MlflowClient, name: str, version: int) -> dict[str, str] | None:
    """Tags of a version; None where there is no such version."""
    try:
        return dict(client.get_model_version(name, str(version)).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _version_of(client: MlflowClient, name: str, alias: str) -> int | None:
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
