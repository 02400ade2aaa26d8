"""Addresses as people write them: a local path, ``s3://bucket/prefix``, or another way to say one of these."""

import re
from urllib.parse import unquote

from simipu_core.errors import SimipuError

S3 = "s3://"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.DOTALL)
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LONGEST_KEY = 800
"""Bytes; S3 has room for 1024 with the names of the files below."""
_OF_S3 = ("s3", "s3a", "s3n")
"""The second and third are Hadoop's."""
_NAMES = {
    "Google Cloud Storage": ("gs", "gcs"),
    "Azure Storage": ("az", "abfs", "abfss", "adl", "azure", "wasb", "wasbs"),
    "Hadoop": ("hdfs", "viewfs", "webhdfs"),
    "another machine": ("ftp", "http", "https", "scp", "sftp", "ssh"),
}
_NAME_OF = {scheme: name for name, schemes in _NAMES.items() for scheme in schemes}


def plain(address: str) -> str:
    """The address as a local path or as ``s3://…``: ``file:///folder`` and ``s3a://bucket`` are other words for them.

    A local path that looks like an address is written with ``./`` before it.

    Raises:
        SimipuError: it is neither.
    """
    found = _SCHEME.fullmatch(address)
    if found is None:
        return address
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme in _OF_S3:
        if len(found["slashes"]) != 2:
            raise SimipuError(f"{address}: is no address; write s3://bucket/prefix.")
        s3_parts(f"{S3}{rest}")
        return f"{S3}{rest}"
    if scheme == "file":
        host, _, path = rest.partition("/") if len(found["slashes"]) == 2 else ("", "", rest)
        if host not in ("", "localhost"):
            raise SimipuError(f"{address}: names the machine {host}; write the local path, or file:///folder.")
        return f"/{unquote(path)}"
    name = _NAME_OF.get(scheme, "a kind that is not known")
    raise SimipuError(
        f"{address.partition('?')[0]}: addresses of {name} ({scheme}://) are not read; copy or mount it as a local "
        "folder, or use S3 (s3://bucket/prefix, on any endpoint that AWS_ENDPOINT_URL names)."
    )


def s3_parts(address: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``.

    Raises:
        SimipuError: no such address, or a name that S3 refuses; credentials in it are not repeated.
    """
    bucket, _, key = address.removeprefix(S3).partition("/")
    if not bucket:
        raise SimipuError(f"{address}: names no bucket; write s3://bucket/prefix.")
    if {"@", ":"} & set(bucket) or "X-Amz-" in f"{bucket}{key}":
        raise SimipuError(
            "An s3:// address is of the form s3://bucket/prefix, without credentials or signatures; set those as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if not _BUCKET.fullmatch(bucket):
        raise SimipuError(
            f"{S3}{bucket}: no bucket can be called so; a name has 3 to 63 lower-case letters, digits, dots and "
            "hyphens, a letter or digit at each end."
        )
    if key and {"", ".", ".."} & set(key.removesuffix("/").split("/")):
        raise SimipuError(
            f"{S3}{bucket}/{key}: leads to no folder; write names, not . or .., with one slash between them."
        )
    if len(key.encode()) > _LONGEST_KEY:
        raise SimipuError(
            f"{S3}{bucket}/{key[:40]}…: is {len(key.encode())} bytes long, which leaves no room for the names below; "
            f"choose a prefix of at most {_LONGEST_KEY}."
        )
    return bucket, key
