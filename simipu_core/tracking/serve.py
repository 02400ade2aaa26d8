"""Serve a registered version over HTTP with MLflow's own server."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from simipu_core.tracking.mlflow_run import check_answering, tracking_uri
from simipu_core.tracking.promotion import registered_weights


def serve(address: str, *, host: str, port: int, workers: int) -> NoReturn:
    """Become the server of a registered version, once its weights are known to be the registered ones.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        host: address to listen on.
        port: to listen on.
        workers: processes, each with the network in memory.

    Raises:
        SimipuError: no such version, it or the champion is not sound, or the registry does not answer.
    """
    check_answering()
    with registered_weights(address):
        pass
    programs = str(Path(sys.executable).parent)  # MLflow starts uvicorn by its name
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", address, "--env-manager", "local"]
    command += ["--host", host, "--port", str(port), "--workers", str(workers)]
    print(f"{address} is sound; its server starts at http://{host}:{port}", flush=True)
    os.execv(sys.executable, command)  # noqa: S606
