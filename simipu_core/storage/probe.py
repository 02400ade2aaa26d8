"""What a bucket's server knows, and this key may do: tried with an empty object before work begins, not at its end."""

import sys
import uuid
from functools import lru_cache
from typing import Any

from simipu_core.storage import s3
from simipu_core.storage.s3_path import S3Path


def probe(place: S3Path, *, removes: bool = False) -> bool:
    """Write an object below a prefix, and remove it again.

    Args:
        place: the prefix.
        removes: objects there are removed later on, too.

    Returns:
        Whether the server refuses to replace an object where it is asked to. Some do not know the question
        (``If-None-Match``), others do not heed it.

    Raises:
        StorageError: nothing can be written there, or removed.
    """
    return _probe(s3.settings(), place, removes)


@lru_cache
def _probe(_settings: tuple[tuple[str, str], ...], place: S3Path, removes: bool) -> bool:
    client = s3.client()
    item = {"Bucket": place.bucket, "Key": f"{place.prefix}.simipu-probe-{uuid.uuid4().hex[:8]}"}
    with s3.s3_errors(place):
        is_refused = _refuses_to_replace(client, item)
        with s3.unless("" if removes else s3.NOT_ALLOWED) as refused:
            client.delete_object(**item)
        if refused:
            _warn(f"{place}: objects cannot be removed ({refused[0]}), so an empty one stays, {item['Key']}.")
        with s3.unless(s3.NOT_ALLOWED) as refused:
            client.list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
        if refused:
            _warn(
                f"{place}: unfinished uploads cannot be listed ({refused[0]}), so what killed steps leave of theirs "
                "stays; allow s3:ListBucketMultipartUploads, or have the bucket remove it by a rule of its own."
            )
    if not is_refused:
        _warn(f"{place}: this server replaces objects even if told not to; let no two runs write there at a time.")
    return is_refused


def _refuses_to_replace(client: Any, item: dict[str, str]) -> bool:
    for _ in range(2):
        with s3.unless(f"{s3.TAKEN} {s3.UNKNOWN}") as answered:
            client.put_object(**item, Body=b"", IfNoneMatch="*")
        if answered and answered[0] in s3.TAKEN.split():
            return True
        if answered:
            client.put_object(**item, Body=b"")
            return False
    return False


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
