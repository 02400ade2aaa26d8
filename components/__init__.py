"""The Kubeflow components: each unpacks its artifacts and calls one stage of `simipu_core`."""

import hashlib
import os
from pathlib import Path

import simipu_core


def _default_image() -> str:
    """Image name for runs in this folder; it changes with the code, so that cached steps of older code are not used."""
    package = Path(simipu_core.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return f"simipu-python:{digest.hexdigest()[:12]}"


IMAGE = os.environ.get("SIMIPU_IMAGE") or _default_image()
"""Image of every step where no cluster's settings name one."""
DATA_IMAGE = os.environ.get("SIMIPU_DATA_IMAGE") or IMAGE
"""The same for the steps that need no PyTorch: configure, ingest and pair."""
