"""Who was champion, and since when: an append-only log that concurrent promotions agree on.

MLflow moves an alias without looking at what it moves it from, so two promotions at the same time could each believe
to have replaced the same champion. Here an alias is only a view. The truth is a second registered model, named
``NAME.promotions``, each version of which is one entry, described by its tags. The registry's database gives every
version a number of its own, in the order of their commits, and keeps the numbers of deleted ones; so entries have one
order that every process sees alike. An entry names the entry that it is based on and counts only if that was the last
one that counted: of two entries based on the same one, the first wins, and both writers can read which it was.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow.entities.model_registry import ModelVersion as Entity
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict, ValidationError

from simipu_core.errors import SimipuError

Action = Literal["promote", "rollback"]
_DESCRIPTION = (
    "Promotion log of {name}: each version is one promotion or rollback, described by its tags. Not a model, and not "
    "to be deleted: the champion is the one that this log names; the aliases follow it."
)
_ATTEMPTS = 50


class Entry(BaseModel):
    """One promotion or rollback."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    """Position in the log, from 1."""
    action: Action
    version: int
    """Version that becomes champion."""
    based_on: int
    """Number of the entry that was the last one when this was decided; 0 before the first."""
    token: str
    """Tells entries of different writers apart."""
    at: str
    """Time, ISO 8601, UTC."""
    by: str
    """Person or pipeline run."""
    why: str
    lost: str = ""
    """Numbers of deleted entries that the writer knew of, comma-separated: the champion no longer depends on them."""


@dataclass(frozen=True)
class History:
    """The entries that count, and what follows from them."""

    entries: tuple[Entry, ...] = ()
    champions: tuple[int, ...] = ()
    """Versions that were champion, oldest first, without those rolled back from; the last one is champion."""
    lost: tuple[int, ...] = ()
    """Numbers of entries that someone deleted, on which the champion may depend."""

    @property
    def head(self) -> int:
        """Number of the last entry that counts; 0 for an empty log."""
        return self.entries[-1].number if self.entries else 0

    @property
    def champion(self) -> int | None:
        """Version that is champion."""
        return self.champions[-1] if self.champions else None


def log_name(model: str) -> str:
    """Name of the registered model that holds the log of another."""
    return f"{model}.promotions"


def read(client: MlflowClient, model: str) -> History:
    """Read the log.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
    found: list[Entity] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(f"name = '{log_name(model)}'", max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return fold([_entry(version) for version in found])


def fold(entries: Sequence[Entry | None]) -> History:
    """Decide which entries count.

    Args:
        entries: all of them, in any order; None for one whose tags cannot be read.
    """
    champions: list[int] = []
    counted: list[Entry] = []
    lost: list[int] = []
    followed: set[int] = set()
    settled: set[str] = set()
    last = 0
    for entry in sorted((entry for entry in entries if entry), key=lambda entry: entry.number):
        lost += range(last + 1, entry.number)
        head = counted[-1].number if counted else 0
        if entry.based_on == head or (entry.based_on in lost and entry.based_on not in followed):
            counted.append(entry)
            followed.add(entry.based_on)
            settled.update(entry.lost.split(","))
            if entry.action == "rollback" and entry.version in champions:
                del champions[len(champions) - champions[::-1].index(entry.version) :]
            else:
                champions.append(entry.version)
        last = entry.number
    return History(tuple(counted), tuple(champions), tuple(n for n in lost if str(n) not in settled))


def append(
    client: MlflowClient,
    model: str,
    action: Action,
    version: int,
    *,
    based_on: int,
    by: str,
    why: str,
    lost: Sequence[int] = (),
) -> int | None:
    """Write an entry.

    Args:
        client: client of the registry.
        model: registered model.
        action: what is done.
        version: version that is to be champion.
        based_on: number of the last entry that counted when this was decided.
        by: person or pipeline run.
        why: reason.
        lost: numbers of deleted entries that the writer knew of.

    Returns:
        its number if it counts; None if somebody else's came first.

    Raises:
        MlflowException: the server does not answer or refuses.
        SimipuError: the server found no number for the entry, many times in a row.
    """
    token = uuid.uuid4().hex
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    tags = {"action": action, "version": version, "based_on": based_on, "token": token, "at": at, "by": by, "why": why}
    if lost:
        tags["lost"] = ",".join(map(str, lost))
    _make_log(client, model)
    _create(client, model, {key: str(value) for key, value in tags.items()}, version)
    return next((entry.number for entry in read(client, model).entries if entry.token == token), None)


def _make_log(client: MlflowClient, model: str) -> None:
    try:
        client.get_registered_model(log_name(model))
    except MlflowException:
        try:
            client.create_registered_model(log_name(model), description=_DESCRIPTION.format(name=model))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was faster
                raise


def _create(client: MlflowClient, model: str, tags: Mapping[str, str], version: int) -> None:
    """Create the log's version; the server gives up after three collisions of numbers, which is not the end."""
    for _ in range(_ATTEMPTS):
        try:
            client.create_model_version(
                log_name(model), f"promotion:/{model}/{version}", tags=dict(tags), await_creation_for=0
            )
        except MlflowException as error:
            if "Giving up after" not in str(error):
                raise
        else:
            return
    raise SimipuError(f"{log_name(model)}: too many promotions at the same time; repeat this one.")


def _entry(version: Entity) -> Entry | None:
    try:
        return Entry.model_validate({**version.tags, "number": version.version})
    except ValidationError:
        return None
