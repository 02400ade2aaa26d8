"""Show the tracking store in a browser: ``python -m simipu_core.tracking.ui``."""

import os
import sys

from simipu_core.tracking.mlflow_run import tracking_uri

if __name__ == "__main__":
    uri = tracking_uri()
    if uri.startswith("http"):
        sys.exit(f"MLFLOW_TRACKING_URI names a server already: open {uri}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", "5000"])  # noqa: S606
