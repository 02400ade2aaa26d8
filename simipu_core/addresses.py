"""Addresses as people write them: a local path, ``s3://bucket/prefix``, or another way to say one of these."""

import re
from urllib.parse import unquote

from simipu_core.errors import SimipuError

S3 = "s3://"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<rest>.*)", re.DOTALL)
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
