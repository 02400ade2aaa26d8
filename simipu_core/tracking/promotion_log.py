"""Who was champion, and since when: an append-only log that concurrent promotions agree on.

MLflow moves an alias without looking at what it moves it from, so two promotions at the same time could each believe
to have replaced the same champion. Here an alias is only a view. The truth is a second registered model, named
``NAME.promotions``, each version of which is one entry, described by its tags. The registry's database gives every
version a number of its own, in the order of their commits, and keeps the numbers of deleted ones; so entries have one
order that every process sees alike. An entry names the entry that it is based on and counts only if that was the last
one that counted: of two entries based on the same one, the first wins, and both writers can read which it was.

An entry also says what it makes champion, by digests, and may be signed (:mod:`simipu_core.tracking.signing`). One that
cannot be read, or lacks a signature where signatures are demanded, is taken for a deleted one. That entries are missing
shows in their numbers, and at the end in a tag of the model, which holds the number of the last one.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mlflow.entities.model_registry import ModelVersion as Entity
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simipu_core.errors import SimipuError
from simipu_core.tracking.delivery import with_retries
from simipu_core.tracking.signing import is_trusted, sign, trusted_keys

Action = Literal["promote", "rollback"]
_DESCRIPTION = (
    "Promotion log of {name}: each version is one promotion or rollback, described by its tags. Not a model, and not "
    "to be deleted: the champion is the one that this log names; the aliases follow it."
)
_ATTEMPTS = 50
_MARK, _SIGNATURE = "simipu.promotions", "signature"
"""Tags: of the model, the number of its log's last entry; of an entry, its signature."""


class Contents(BaseModel):
    """What a version is, by digests; tags of the version, and part of the entries that make it champion."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    data_digest: str = ""
    """Of the data that it was scored on."""
    image: str = ""
    """In which it was scored; empty outside of images."""


class Entry(Contents):
    """One promotion or rollback."""

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
    lost: str = Field("", pattern=r"^(\d+(,\d+)*)?$")
    """Numbers of entries that the writer missed or did not trust, comma-separated: they no longer count, and the
    champion no longer depends on them."""

    @property
    def overruled(self) -> set[int]:
        """Those numbers; of a log that was begun anew, later ones belong to other entries now."""
        return {int(number) for number in self.lost.split(",") if number and int(number) < self.number}

    @property
    def contents(self) -> Contents:
        """What became champion."""
        return Contents(weights_sha256=self.weights_sha256, data_digest=self.data_digest, image=self.image)


@dataclass(frozen=True)
class History:
    """The entries that count, and what follows from them."""

    entries: tuple[Entry, ...] = ()
    champions: tuple[int, ...] = ()
    """Versions that were champion, oldest first, without those rolled back from; the last one is champion."""
    lost: tuple[int, ...] = ()
    """Numbers of entries that are missing, on which the champion may depend."""

    @property
    def head(self) -> int:
        """Number of the last entry that counts; 0 for an empty log."""
        return self.entries[-1].number if self.entries else 0

    @property
    def champion(self) -> int | None:
        """Version that is champion."""
        return self.champions[-1] if self.champions else None

    def contents(self, version: int) -> Contents | None:
        """What a version was when it last became champion; None if it never did."""
        return next((entry.contents for entry in reversed(self.entries) if entry.version == version), None)


def log_name(model: str) -> str:
    """Name of the registered model that holds the log of another."""
    return f"{model}.promotions"


def read(client: MlflowClient, model: str) -> History:
    """Read the log.

    Raises:
        MlflowException: the server does not answer or refuses.
        SimipuError: the trusted keys cannot be read.
    """
    marked = _mark(client, model)  # before the entries: it must not name one that is younger than they
    entries, last = _entries(client, model)
    return fold(entries, max(last, marked))


def _entries(client: MlflowClient, model: str) -> tuple[list[Entry], int]:
    """The entries that can be read and are trusted, and the number of the last one of all."""
    trusted = trusted_keys()
    found: list[Entity] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(f"name = '{log_name(model)}'", max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    entries = [entry for version in found if (entry := _entry(version, model, trusted))]
    return entries, max((int(version.version) for version in found), default=0)


def _mark(client: MlflowClient, model: str) -> int:
    """Number of the log's last entry as noted with the model; 0 where nothing is."""
    try:
        return int(client.get_registered_model(model).tags.get(_MARK, "0"))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return 0
    except ValueError:
        raise SimipuError(f"{model}: its tag {_MARK} is no number; set it to that of the log's last entry.") from None


def fold(entries: Sequence[Entry], last: int = 0) -> History:
    """Decide which entries count.

    Args:
        entries: all that can be read and are trusted, in any order.
        last: number of the last entry that there was, as far as is known.
    """
    counted: list[Entry] = []
    lost: list[int] = []
    followed: set[int] = set()
    settled: set[int] = set()
    before = 0
    for entry in sorted(entries, key=lambda entry: entry.number):
        lost += range(before + 1, entry.number)
        standing = [each for each in counted if each.number not in entry.overruled]
        head = standing[-1].number if standing else 0
        if entry.based_on == head or (entry.based_on in lost and entry.based_on not in followed):
            counted = [*standing, entry]
            followed.add(entry.based_on)
            settled |= entry.overruled
        before = entry.number
    lost += range(before + 1, last + 1)
    return History(tuple(counted), _champions(counted), tuple(number for number in lost if number not in settled))


def _champions(entries: Sequence[Entry]) -> tuple[int, ...]:
    champions: list[int] = []
    for entry in entries:
        if entry.action == "rollback" and entry.version in champions:
            del champions[len(champions) - champions[::-1].index(entry.version) :]
        else:
            champions.append(entry.version)
    return tuple(champions)


def append(
    client: MlflowClient,
    model: str,
    action: Action,
    version: int,
    contents: Contents,
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
        contents: what it is.
        based_on: number of the last entry that counted when this was decided.
        by: person or pipeline run.
        why: reason.
        lost: numbers of missing entries that the writer knew of.

    Returns:
        its number if it counts; None if somebody else's came first.

    Raises:
        MlflowException: the server does not answer or refuses.
        SimipuError: the server found no number for the entry, many times in a row; or it cannot be signed.
    """
    token = uuid.uuid4().hex
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    given = {"action": action, "version": version, "based_on": based_on, "token": token, "at": at, "by": by, "why": why}
    given |= {"lost": ",".join(map(str, lost)), **contents.model_dump()}
    tags = _tags(Entry.model_validate({**given, "number": 0}))
    if signature := sign({"model": model, **tags}):
        tags[_SIGNATURE] = signature
    make_log(client, model)
    _create(client, model, tags, version)
    entries, last = _entries(client, model)
    with_retries(client.set_registered_model_tag, model, _MARK, str(last))
    return next((entry.number for entry in fold(entries, last).entries if entry.token == token), None)


def make_log(client: MlflowClient, model: str) -> None:
    """Make the log of a model, unless it is there.

    Raises:
        MlflowException: the server does not answer or refuses.
    """
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


def _tags(entry: Entry) -> dict[str, str]:
    """The entry as tags; all but the number, which the server gives."""
    return {key: str(value) for key, value in entry.model_dump(exclude={"number"}).items() if value != ""}


def _entry(version: Entity, model: str, trusted: tuple[Ed25519PublicKey, ...] | None) -> Entry | None:
    """The entry in a version of the log; None for one that cannot be read or is not trusted."""
    try:
        entry = Entry.model_validate({**version.tags, "number": version.version})
    except ValidationError:
        return None
    signed = {"model": model, **_tags(entry)}
    return entry if is_trusted(signed, version.tags.get(_SIGNATURE, ""), trusted) else None
