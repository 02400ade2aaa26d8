"""Weights in the Hugging Face hub: one file of one revision, held against its sha256 before anything reads it."""

import re
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from simipu_core.artifacts import sha256_file
from simipu_core.errors import SimipuError

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[^/@#]+/[^/@#]+)@(?P<revision>[0-9a-f]{40})/(?P<name>[^@#]+)#(?P<sha256>[0-9a-f]{64})"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 10


class HubFile(NamedTuple):
    """A file of a repository in the hub, as it is for good."""

    repository: str
    """``OWNER/NAME``."""
    revision: str
    """Commit of the repository, 40 hexadecimal digits."""
    name: str
    sha256: str

    @property
    def address(self) -> str:
        """``hf://OWNER/NAME@REVISION/FILE#SHA256``."""
        return f"{SCHEME}{self.repository}@{self.revision}/{self.name}#{self.sha256}"

    @classmethod
    def at(cls, address: str) -> "HubFile":
        """The file at an address.

        Raises:
            SimipuError: the address does not name revision and digest, or is none.
        """
        found = _ADDRESS.fullmatch(address)
        if not found:
            raise SimipuError(
                f"{address}: does not say which content is meant; write hf://OWNER/NAME@REVISION/FILE#SHA256, with the "
                "commit and the file's sha256 in full."
            )
        return cls(**found.groupdict())

    def fetch(self) -> Path:
        """A local copy of just this content; from the hub's cache, or downloaded.

        Raises:
            SimipuError: the hub cannot be reached or has no such file, or its content is another one.
        """
        file = _local(self.repository, self.name, self.revision)
        if (found := sha256_file(file)) != self.sha256:
            raise SimipuError(
                f"{self.address}: what came has the sha256 {found} and is not loaded; check the address, delete "
                f"{file}, and take the weights from elsewhere if it comes again."
            )
        return file


def newest(repository: str, name: str) -> HubFile:
    """A file as the hub's cache has it, or, if there is none, as the hub has it now.

    Its digest is the one by which the hub announced it when it was downloaded, where the hub gave one, else that of
    the content: nothing vouches for it but the hub.

    Raises:
        SimipuError: it is neither in the cache nor to be had from the hub.
    """
    file = _local(repository, name, None)
    announced = file.resolve().name  # the cache names content by its digest
    return HubFile(repository, file.parent.name, name, announced if _SHA256.fullmatch(announced) else sha256_file(file))


def _local(repository: str, name: str, revision: str | None) -> Path:
    if isinstance(cached := try_to_load_from_cache(repository, name, revision=revision), str):
        return Path(cached)
    try:
        # fails at once, unlike the download
        get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), timeout=_TIMEOUT_S)
        return Path(str(hf_hub_download(repository, name, revision=revision)))
    except Exception as error:  # whatever the network library raises
        reason = str(error).strip().split("\n")[0]
        raise SimipuError(
            f"{name} of {repository} cannot be downloaded from the Hugging Face hub ({reason}); set init_file to a "
            "file of such weights."
        ) from error
