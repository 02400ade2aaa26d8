"""Promotion and rollback of registered versions, by people and by the gate.

Aliases: `champion` is the version in use, `previous` the champion before it. They follow the promotion log
(:mod:`simipu_core.tracking.promotion_log`), which decides who was first.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.files import disk_errors, temporary_folder, write_file
from simipu_core.tracking import promotion_log
from simipu_core.tracking.champion import Champion
from simipu_core.tracking.delivery import with_retries
from simipu_core.tracking.identity import author
from simipu_core.tracking.mlflow_run import connect, mlflow_errors, tracking_uri
from simipu_core.tracking.promotion_log import Contents, History
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

_ADDRESS = re.compile(r"models:/(?P<name>[^/@:]+)(@(?P<alias>[^/@:]+)|/(?P<version>\d+))")
_SETTLING = 3
_ATTEMPTS = 50


def promote(version: int, config: TrackingConfig, *, reason: str = "", by: str | None = None) -> ModelVersion:
    """Make a version the champion, as a person's decision; the former champion becomes `previous`.

    Args:
        version: number of the registered version.
        config: names in the registry.
        reason: why; needed for a version that did not pass the gate, and where the promotion log is damaged.
        by: who decides, beside the login at MLflow; see :func:`simipu_core.tracking.identity.author`.

    Raises:
        SimipuError: there is no such version, it did not pass the gate or the log is damaged and no reason is stated,
            its weights are not the ones that were registered, or the promotion cannot be signed.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        tags = _tags(client, name, version)
        if tags is None:
            raise SimipuError(f"{name} has no version {version}; `make models` lists the versions.")
        gate = tags.get(GATE_TAG)
        if gate != PASSED and not reason:
            verdict = f"did not pass the gate ({tags.get(REASON_TAG, 'no reason recorded')})"
            raise SimipuError(
                f"{name} version {version} {verdict if gate == FAILED else 'was not judged by the gate'}; "
                "to promote it all the same, say why: --reason TEXT, or REASON=TEXT for make."
            )
        by, contents = author(by), None
        for _ in range(_ATTEMPTS):
            past = promotion_log.read(client, name)
            damage = _damage(client, name, past)
            if damage and not reason:
                raise SimipuError(damage)
            if past.champion == version and not damage:
                break
            contents = contents or _checked(client, name, version, past)
            if _append(client, name, "promote", version, contents, past, by, reason or "passed the gate"):
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
        SimipuError: the server does not answer.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        past = promotion_log.read(client, name)
        if damage := _damage(client, name, past):
            return damage
        if past.champion == version:  # by an attempt that was interrupted
            _apply(client, name)
            return None
        try:
            contents = _checked(client, name, version, past)
            is_first = past.champion == champion and _append(
                client, name, "promote", version, contents, past, author(by), reason
            )
        except SimipuError as error:
            return str(error)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            return f"the run's login at MLflow may not write to {promotion_log.log_name(name)}; `make promote` by hand"
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
        by: who decides, beside the login at MLflow; see :func:`simipu_core.tracking.identity.author`.

    Returns:
        the champion from now on, and the number of the version that was left.

    Raises:
        SimipuError: there is no earlier champion, the champion changed at this very moment, the promotion log is
            damaged, the earlier champion's weights are not the ones that were promoted, or it cannot be signed.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        past = promotion_log.read(client, name)
        if damage := _damage(client, name, past):
            raise SimipuError(damage)
        left = past.champion
        earlier = [one for one in past.champions[:-1] if one != left and _tags(client, name, one) is not None]
        if left is None or not earlier:
            raise SimipuError(
                f"{name}: there is no earlier champion to go back to; `make promote VERSION=…` makes any one champion."
            )
        by, why = author(by), reason or "rolled back by hand"
        contents = _checked(client, name, earlier[-1], past)
        if not _append(client, name, "rollback", earlier[-1], contents, past, by, why):
            raise SimipuError(f"{name}: the champion changed at this moment; see `make models`, then repeat.")
        _apply(client, name)
        if _tags(client, name, left) is not None:
            _describe(client, name, left, "rolled_back", by, why)
    return ModelVersion(name=name, version=earlier[-1], alias=CHAMPION), left


def repair(config: TrackingConfig) -> None:
    """Set the aliases as the promotion log says.

    Raises:
        SimipuError: the log is damaged, or the champion's version was deleted.
    """
    client = connect()
    name = config.model_name
    with mlflow_errors():
        if damage := _damage(client, name, promotion_log.read(client, name)):
            raise SimipuError(damage)
        _apply(client, name)


def problems(client: MlflowClient, name: str, past: History) -> list[str]:
    """What is wrong with the log and the aliases, one sentence each with a way on.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    found = [damage] if (damage := _damage(client, name, past)) else []
    if past.champion is None:
        return found
    alias = _version_of(client, name, CHAMPION)
    if _tags(client, name, past.champion) is None:
        found.append(
            f"{name}: version {past.champion}, the champion since {past.entries[-1].at}, was deleted; `make rollback` "
            "goes back to the champion before it, `make promote VERSION=…` chooses one."
        )
    elif alias != past.champion:
        now = f"is at version {alias}" if alias else "is missing"
        found.append(
            f"{name}: the alias champion {now}, but by the promotion log version {past.champion} is champion; "
            f"`simipu models --repair` sets it back, `make promote VERSION={alias or past.champion} REASON=…` makes "
            "the change official."
        )
    return found


def _damage(client: MlflowClient, name: str, past: History) -> str | None:
    """What keeps the log from telling who is champion, as a sentence with a way on; None where nothing does."""
    if past.lost:
        numbers = ", ".join(map(str, past.lost))
        what = (
            f"entries {numbers} were deleted or changed, or are not signed by a trusted key, so it may name the wrong"
        )
    elif past.champion is None and (alias := _version_of(client, name, CHAMPION)):
        what = f"is empty, but the alias champion is at version {alias}, so nobody knows the"
    else:
        return None
    return f"{promotion_log.log_name(name)}: {what} champion; `make promote VERSION=… REASON=…` settles it."


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
        yield Champion(0, None, wrong[0]) if wrong else None
    elif tags is None:
        yield Champion(past.champion, None, wrong[-1])
    else:
        with temporary_folder("champion") as folder:
            try:
                weights = _download(name, past.champion, past.entries[-1].contents, folder)
            except SimipuError as error:
                yield Champion(past.champion, None, str(error))
            else:
                yield Champion(past.champion, weights, wrong[0] if wrong else None)


def fetch(config: TrackingConfig, out: Path) -> int:
    """Write the champion's weights to a file, if promotion log, aliases, signature and digest all agree on them.

    Args:
        config: names in the registry.
        out: safetensors file to write; whole or not at all.

    Returns:
        number of the version.

    Raises:
        SimipuError: there is no champion, something is wrong with it, or the file cannot be written.
    """
    with champion(config) as found:
        chosen, weights = _sound(found, config.model_name)
        with disk_errors(out):
            write_file(out, weights.read_bytes())
    return chosen.version


@contextmanager
def registered_weights(address: str) -> Iterator[Path]:
    """The weights of a version, which lie in a temporary folder inside the block, checked as :func:`fetch` does.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``. The champion is who the promotion log says it is.

    Raises:
        SimipuError: no such address or version, something is wrong with the champion, the weights are not the ones
            that were registered, or the server does not answer.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise SimipuError(f"{address}: write models:/NAME@champion, or models:/NAME/3 for version 3.")
    name, alias = parts["name"], parts["alias"]
    if alias == CHAMPION:
        with champion(TrackingConfig(model_name=name)) as found:
            yield _sound(found, name)[1]
        return
    client = connect()
    with mlflow_errors():
        version = int(parts["version"]) if parts["version"] else _version_of(client, name, alias)
        if version is None or _tags(client, name, version) is None:
            raise SimipuError(f"{address}: there is no such version; `make models` lists the versions.")
        contents = _registered_contents(client, name, version, promotion_log.read(client, name))
    with temporary_folder("version") as folder:
        yield _download(name, version, contents, folder)


def _sound(found: Champion | None, name: str) -> tuple[Champion, Path]:
    """A champion with which nothing is wrong, and its weights."""
    if found is None:
        raise SimipuError(f"{name}: there is no champion; `make promote VERSION=…` makes one.")
    if found.problem or found.weights is None:
        raise SimipuError(found.problem or f"{name} version {found.version}: it has no weights.")
    return found, found.weights


def _settled(client: MlflowClient, name: str) -> tuple[History, list[str]]:
    """The history and its problems, those apart that are gone in a moment: entry and aliases are written in turn."""
    for attempt in range(_SETTLING):
        if attempt:
            time.sleep(1)
        past = promotion_log.read(client, name)
        wrong = problems(client, name, past)
        if not wrong:
            break
    return past, wrong


def _download(name: str, version: int, contents: Contents, folder: Path) -> Path:
    try:
        file = Path(
            download_artifacts(f"models:/{name}/{version}/{WEIGHTS}", dst_path=str(folder), tracking_uri=tracking_uri())
        )
    except (MlflowException, OSError) as error:
        raise SimipuError(f"{name} version {version}: its weights cannot be fetched ({error}).") from None
    if not file.is_file() or contents.weights_sha256 != sha256_file(file):
        raise SimipuError(f"{name} version {version}: its weights are not the ones that were registered.")
    return file


def _append(
    client: MlflowClient,
    name: str,
    action: promotion_log.Action,
    version: int,
    contents: Contents,
    past: History,
    by: str,
    why: str,
) -> bool:
    """Write to the log that a version becomes champion; whether nobody else changed the champion since `past`."""
    head = promotion_log.append(
        client, name, action, version, contents, based_on=past.head, by=by, why=why, lost=past.lost
    )
    if head is None:
        return False
    _describe(client, name, version, "promoted" if action == "promote" else "restored", by, why)
    return True


def _checked(client: MlflowClient, name: str, version: int, past: History) -> Contents:
    """What a version is: what it was when it became champion before, else what was registered; its weights are that.

    Raises:
        SimipuError: the registered digest is missing, or the weights are others.
    """
    contents = _registered_contents(client, name, version, past)
    with temporary_folder("version") as folder:
        _download(name, version, contents, folder)
    return contents


def _registered_contents(client: MlflowClient, name: str, version: int, past: History) -> Contents:
    if (contents := past.contents(version)) is not None:
        return contents
    try:
        return Contents.model_validate(_tags(client, name, version) or {})
    except ValidationError:
        raise SimipuError(
            f"{name} version {version}: its tag weights_sha256 is missing or no digest, so nothing tells whether "
            "its weights are the ones that were registered; register it again, by a run of the pipeline."
        ) from None


def _describe(client: MlflowClient, name: str, version: int, what: str, by: str, why: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for key, value in (("at", at), ("by", by), ("because", why)):
        with_retries(client.set_model_version_tag, name, str(version), f"{what}_{key}", value)


def _apply(client: MlflowClient, name: str) -> None:
    """Set the aliases as the log says, again until nobody has written to it meanwhile."""
    while True:
        past = promotion_log.read(client, name)
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
