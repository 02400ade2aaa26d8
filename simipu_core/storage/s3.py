"""S3 through boto3: one client a process, retries with back-off, and errors in one sentence.

Endpoint, region and credentials come from the usual AWS settings (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
``AWS_PROFILE``, a role …). A request is tried `AWS_MAX_ATTEMPTS` times, six by default, with growing pauses.
"""

import os
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from simipu_core.addresses import S3
from simipu_core.errors import SimipuError

THREADS = 16
"""Requests under way at once where many are made."""

_ATTEMPTS = 6
_CONNECT_SECONDS, _READ_SECONDS = 10, 30

_AGAIN = "run again, which goes on where this stopped"
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and what they may do"
_NETWORK = "check AWS_ENDPOINT_URL and the network"
_REASONS: dict[tuple[str, str], str] = {
    ("access is refused", _CREDENTIALS): "AccessDenied InvalidAccessKeyId SignatureDoesNotMatch AllAccessDisabled 403",
    ("the credentials have expired", "renew them and run again"): (
        "ExpiredToken ExpiredTokenException InvalidToken RequestExpired TokenRefreshRequired UnauthorizedSSOTokenError"
    ),
    ("there are no whole credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"): (
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError ProfileNotFound SSOTokenLoadError "
        "TokenRetrievalError"
    ),
    ("there is no such bucket", "make it or mend the address"): "NoSuchBucket",
    ("the clock of this machine is wrong", "set it"): "RequestTimeTooSkewed",
    ("the bucket lies in another region", "set AWS_DEFAULT_REGION"): (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301"
    ),
    ("the server is overloaded or failing", _AGAIN): (
        "SlowDown ServiceUnavailable InternalError Throttling ThrottlingException TooManyRequests RequestLimitExceeded "
        "RequestTimeout 429 500 502 503 504"
    ),
    ("the server does not answer", _NETWORK): (
        "EndpointConnectionError ConnectTimeoutError ProxyConnectionError SSLError InvalidEndpoint"
    ),
    ("the connection broke off", _AGAIN): (
        "ConnectionClosedError ReadTimeoutError ResponseStreamingError IncompleteReadError HTTPClientError "
        "ConnectionError"
    ),
    ("arrived damaged", _AGAIN): "FlexibleChecksumError BadDigest XAmzContentSHA256Mismatch",
    ("changed meanwhile", "run again when nothing writes there"): "PreconditionFailed ConditionalRequestConflict 412",
    ("another process that writes there has won", "wait for it and use what it writes, or choose another place"): (
        "NoSuchUpload"
    ),
    ("the server does not know this kind of request", "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"): (
        "NotImplemented MethodNotAllowed MissingContentLength 405 411 501"
    ),
}
TAKEN = "PreconditionFailed ConditionalRequestConflict 409 412"
"""Answers to a request that was not to replace an object."""
UNKNOWN = "NotImplemented MethodNotAllowed InvalidArgument InvalidRequest 400 405 501"
"""Answers of servers that do not know what they are asked for."""
NOT_ALLOWED = f"AccessDenied AllAccessDisabled 403 {UNKNOWN}"
"""Those and the refusals of what a key may not do."""
_EXPLAINED = {code: explanation for explanation, codes in _REASONS.items() for code in codes.split()}


class StorageError(SimipuError):
    """Storage does not answer, refuses, or sends something else than it should.

    Unlike a file that is missing or damaged, this says nothing about a frame: work stops, and is done when repeated.
    """


class Entry(NamedTuple):
    """What a listing tells of an object."""

    key: str
    size: int
    mtime_ns: int
    etag: str


def client() -> Any:
    """The boto3 client of this process for the present AWS settings; safe for threads.

    Raises:
        StorageError: the settings are no sound ones.
    """
    with s3_errors("S3"):
        return _client(os.getpid(), settings())


def settings() -> tuple[tuple[str, str], ...]:
    """The present AWS settings: whose answers are no longer good when they change."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@lru_cache(maxsize=4)
def _client(_process: int, _settings: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    from botocore.config import Config  # type: ignore[import-untyped]

    session = boto3.session.Session()  # of its own: the default one keeps the first credentials that it sees
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _attempts()},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=2 * THREADS,
    )
    try:
        return session.client("s3", region_name=session.region_name or "us-east-1", config=config)
    except ValueError:
        raise StorageError("AWS_ENDPOINT_URL: is no address; write it as http(s)://host:port.") from None


def _attempts() -> int:
    try:
        return max(1, int(os.environ.get("AWS_MAX_ATTEMPTS", _ATTEMPTS)))
    except ValueError:
        raise StorageError("AWS_MAX_ATTEMPTS: is no whole number; write one, or unset it.") from None


@contextmanager
def s3_errors(place: object) -> Iterator[None]:
    """Raise a `StorageError` that names `place` for what boto3 raises inside; no credential is ever repeated."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
        code = code_of(cause)
        reason, mend = _EXPLAINED.get(code, ("S3 fails", "check the address and the server"))
        raise StorageError(f"{place}: {reason} ({code}); {mend}.") from None


def code_of(error: BaseException) -> str:
    """The code of S3's answer, or the name of the error."""
    from botocore.exceptions import ClientError

    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__


def read(bucket: str, key: str, part: tuple[int, int] | None = None, etag: str | None = None) -> bytes:
    """The bytes of an object, or those from part[0] up to part[1]; see :func:`read_part`."""
    return read_part(bucket, key, part, etag)[0]


def read_part(
    bucket: str, key: str, part: tuple[int, int] | None = None, etag: str | None = None
) -> tuple[bytes, int, str]:
    """Bytes of an object, its whole size and its ETag; connections that break off in the middle are tried again.

    Args:
        bucket: its bucket.
        key: its key.
        part: first byte and the one after the last; may reach beyond the end, but not begin there.
        etag: the object must still have this one.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: it cannot be had.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    place = f"{S3}{bucket}/{key}"
    options = {"Range": f"bytes={part[0]}-{part[1] - 1}"} if part else {}
    if etag:
        options["IfMatch"] = etag
    s3 = client()
    with s3_errors(place):
        for attempt in range(_attempts() - 1, -1, -1):
            try:
                answer = s3.get_object(Bucket=bucket, Key=key, **options)
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    raise FileNotFoundError(2, "No such object", place) from None
                if code_of(error) == "InvalidRange" and part and part[0] == 0:  # an empty object has no byte 0
                    return b"", 0, ""
                raise
            try:
                data = bytes(answer["Body"].read())
            except BotoCoreError:  # headers came, the rest did not: botocore itself repeats whole requests only
                if not attempt:
                    raise
                time.sleep(random.random() * 2 ** (_attempts() - 1 - attempt))  # noqa: S311
                continue
            whole = answer["ContentRange"].rpartition("/")[2] if "ContentRange" in answer else len(data)
            return data, int(whole), str(answer["ETag"])
    raise AssertionError  # the last attempt returns or raises


def entries(bucket: str, prefix: str) -> Iterator[Entry]:
    """All objects whose keys begin so, in order of their keys, a thousand a request.

    Raises:
        StorageError: they cannot be listed.
    """
    with s3_errors(f"{S3}{bucket}/{prefix}"):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                yield _entry(found)


def folder_entries(bucket: str, prefix: str) -> tuple[list[Entry], list[str]]:
    """Objects right below a prefix that is empty or ends with a slash, and the prefixes of its folders.

    Raises:
        StorageError: they cannot be listed.
    """
    found, folders = [], []
    with s3_errors(f"{S3}{bucket}/{prefix}"):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        for page in pages:
            found += [_entry(entry) for entry in page.get("Contents", [])]
            folders += [folder["Prefix"] for folder in page.get("CommonPrefixes", [])]
    return found, folders


def abort_unfinished_uploads(bucket: str, prefix: str, before: datetime | None = None) -> None:
    """Remove the parts that killed uploads below a prefix left, where the server and this key allow it.

    Args:
        bucket: name of the bucket.
        prefix: beginning of their keys.
        before: spare those that began later, which others may be at.

    Raises:
        StorageError: S3 fails.
    """
    s3 = client()
    with s3_errors(f"{S3}{bucket}/{prefix}"), unless(NOT_ALLOWED):
        for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []):
            if before is None or upload["Initiated"] < before:
                with unless("NoSuchUpload"):  # it was finished or removed meanwhile
                    s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


@contextmanager
def unless(codes: str) -> Iterator[list[str]]:
    """Leave off where S3 answers with one of these codes, which is then in the list."""
    from botocore.exceptions import ClientError

    answered: list[str] = []
    try:
        yield answered
    except ClientError as error:
        if code_of(error) not in codes.split():
            raise
        answered.append(code_of(error))


def _entry(found: dict[str, Any]) -> Entry:
    mtime_ns = round(found["LastModified"].timestamp() * 1_000_000) * 1000
    return Entry(found["Key"], found["Size"], mtime_ns, found["ETag"])


def results(pool: ThreadPoolExecutor, futures: list[Future[Any]]) -> Iterable[Any]:
    """Results of a pool's work as they come; the first error drops what has not begun."""
    try:
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
