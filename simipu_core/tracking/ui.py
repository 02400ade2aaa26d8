"""Show the tracking store in a browser: ``python -m simipu_core.tracking.ui``."""

import os
import sys
import tempfile
from pathlib import Path

from simipu_core.errors import plain_errors
from simipu_core.tracking.mlflow_run import sqlite_folder, tracking_uri


def _plain(uri: str) -> tuple[str, str]:
    """This Python and the store, by links where their paths have a ``%``, with which MLflow's server does not work."""
    store = sqlite_folder()
    if store is None or "%" not in uri + sys.prefix:
        return sys.executable, uri
    links = Path(tempfile.mkdtemp(prefix="simipu-mlflow-", dir="/tmp"))
    (links / "python").symlink_to(sys.prefix)
    (links / "store").symlink_to(store)
    python = links / "python" / Path(sys.executable).relative_to(sys.prefix)
    return str(python), f"sqlite:///{links}/store/{uri.rpartition('/')[2]}"


if __name__ == "__main__":
    with plain_errors():
        uri = tracking_uri()
    if uri.startswith("http"):
        sys.exit(f"MLFLOW_TRACKING_URI names a server already: open {uri}")
    python, uri = _plain(uri)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not an argument, which everybody on this machine can read
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5000"]
    os.execv(python, command)  # noqa: S606
