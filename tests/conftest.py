import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side, one thread each

import pytest


@pytest.fixture(autouse=True, scope="session")
def signals_are_taken() -> None:
    """As in the foreground: what is started in the background, or by nohup, ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def sockets_outlive_tests() -> None:
    """Processes keep their sockets where the first one is started; the temporary folder of a test is removed."""
    from simipu_core.parallel import keep_sockets

    keep_sockets()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real samples, named by SIMIPU_REAL_DATA."""
    folder = os.environ.get("SIMIPU_REAL_DATA")
    if not folder:
        pytest.skip("SIMIPU_REAL_DATA is not set: the real KITTI and NYU samples are not read")
    return Path(folder)
