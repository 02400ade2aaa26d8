"""Signatures of promotions: ed25519 keys in OpenSSH's format, which ``ssh-keygen -t ed25519`` makes.

``SIMIPU_SIGNING_KEY`` names the file of the private key with which promotions are signed. ``SIMIPU_TRUSTED_KEYS`` names
a file of public keys, one a line as in ``authorized_keys``; where it is set, only what one of them signed counts.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from simipu_core.errors import SimipuError

SIGNING_KEY = "SIMIPU_SIGNING_KEY"
TRUSTED_KEYS = "SIMIPU_TRUSTED_KEYS"

_CONTEXT = b"simipu promotion 1\n"
"""Keeps a signature from being taken for one of something else."""


def sign(content: Mapping[str, str]) -> str:
    """Sign a mapping with the key that ``SIMIPU_SIGNING_KEY`` names.

    Returns:
        the signature, base64; empty where no key is named and none is demanded.

    Raises:
        SimipuError: the key cannot be read or is no ed25519 key, or signatures are demanded and there is no key or one
            that is not trusted.
    """
    trusted = trusted_keys()
    if not (place := os.environ.get(SIGNING_KEY)):
        if trusted is None:
            return ""
        raise SimipuError(f"{TRUSTED_KEYS} is set, so promotions must be signed; set {SIGNING_KEY} to your key's file.")
    key = _private_key(Path(place))
    if trusted is not None and key.public_key().public_bytes_raw() not in {one.public_bytes_raw() for one in trusted}:
        raise SimipuError(f"{place}: is not among the keys of {TRUSTED_KEYS}; add its .pub there, or use another key.")
    return base64.b64encode(key.sign(_message(content))).decode()


def is_trusted(content: Mapping[str, str], signature: str, trusted: tuple[Ed25519PublicKey, ...] | None) -> bool:
    """Whether one of the keys signed the mapping; always where no signature is demanded (None)."""
    return trusted is None or any(_verifies(key, content, signature) for key in trusted)


def trusted_keys() -> tuple[Ed25519PublicKey, ...] | None:
    """The keys in the file that ``SIMIPU_TRUSTED_KEYS`` names; None where it is not set.

    Raises:
        SimipuError: the file cannot be read, holds no key, or something else than ed25519 keys.
    """
    if not (place := os.environ.get(TRUSTED_KEYS)):
        return None
    lines = [line.strip() for line in _read(Path(place)).decode(errors="replace").splitlines()]
    keys = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            try:
                key = load_ssh_public_key(line.encode())
            except (ValueError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise SimipuError(f"{place}: line {number} is no public ed25519 key; copy the line of a .pub file.")
            keys.append(key)
    if not keys:
        raise SimipuError(f"{place}: holds no key; write a line of a .pub file into it, or unset {TRUSTED_KEYS}.")
    return tuple(keys)


def _private_key(file: Path) -> Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(_read(file), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SimipuError(
            f"{file}: is no ed25519 key without a passphrase; make one by `ssh-keygen -t ed25519 -N '' -f FILE`."
        )
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SimipuError(
            f"{file}: cannot be read ({error.strerror}); {SIGNING_KEY}, {TRUSTED_KEYS} name it."
        ) from None


def _verifies(key: Ed25519PublicKey, content: Mapping[str, str], signature: str) -> bool:
    try:
        key.verify(base64.b64decode(signature, validate=True), _message(content))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _message(content: Mapping[str, str]) -> bytes:
    return _CONTEXT + json.dumps(dict(content), sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
