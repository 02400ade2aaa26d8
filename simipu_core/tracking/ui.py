"""Show the tracking store in a browser: ``python -m simipu_core.tracking.ui``."""

import os
import sys
import tempfile
from pathlib import Path

from simipu_core.errors import plain_errors
from simipu_core.tracking.mlflow_run import tracking_uri


def _python() -> str:
    """This Python, under a path without the `%` that MLflow's server cannot have in its own."""
    if "%" not in sys.prefix:
        return sys.executable
    link = Path(tempfile.mkdtemp(prefix="simipu-mlflow-"), "python")
    link.symlink_to(sys.prefix)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


if __name__ == "__main__":
    with plain_errors():
        uri = tracking_uri()
    if uri.startswith("http"):
        sys.exit(f"MLFLOW_TRACKING_URI names a server already: open {uri}")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not an argument, which everybody on this machine can read
    python = _python()
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5000"]
    os.execv(python, command)  # noqa: S606
