"""Show the tracking store in a browser: ``python -m simipu_core.tracking.ui``."""

import os
import sys

from simipu_core.errors import plain_errors
from simipu_core.tracking.mlflow_run import tracking_uri

if __name__ == "__main__":
    with plain_errors():
        uri = tracking_uri()
    if uri.startswith("http"):
        sys.exit(f"MLFLOW_TRACKING_URI names a server already: open {uri}")
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not an argument, which everybody on this machine can read
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5000"]
    os.execv(sys.executable, command)  # noqa: S606
