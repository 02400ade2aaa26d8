import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side, one thread each

import pytest

# Whole runs start hundreds of processes, each of which would compile PyTorch and MLflow to bytecode anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONGEST = [
    "e2e/test_golden.py",
    "e2e/test_images.py",
    "e2e/test_kubeflow.py",
    "e2e/test_promotion.py",
    "training/test_networks.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These first: one that began last would leave the other worker idle (with `--no-loadscope-reorder`)."""
    tests = Path(__file__).parent
    first = {tests / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


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
