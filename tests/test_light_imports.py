"""A command loads what it uses. Times are not asserted: they are those of the libraries that must not be loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import files

ROOT = Path(__file__).parents[1]
TRAINING = {"torch", "timm", "torchvision", "scipy", "numba"}
TRACKING = {"mlflow", "sqlalchemy"}
CLUSTER = {"kfp", "kubernetes", "boto3", "dvc"}
DATA = {"cv2", "h5py", "laspy", "numpy", "pyarrow", "rosbags", "yaml"}

_CODE = """
import sys
from simipu_core.cli import main
try:
    main()
finally:
    print("loaded", *{name.partition(".")[0] for name in sys.modules})
"""


def loaded(folder: Path, *arguments: str) -> set[str]:
    """Packages that a command loaded."""
    command = [sys.executable, "-c", _CODE, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return set(line.split()[1:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.kitti_object(tmp_path / "raw", 2)
    lines = (
        "experiment: tiny",
        "pretrain_data: {kind: kitti_object, root: raw, allow_faults: [points_in_image]}",
        "pair: {min_points: 1}",
    )
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    return tmp_path


def test_help_loads_no_library_but_its_own(tmp_path: Path) -> None:
    assert not loaded(tmp_path, "--help") & (TRAINING | TRACKING | CLUSTER | DATA)
    assert not loaded(tmp_path, "pretrain", "--help") & (TRAINING | TRACKING | CLUSTER | DATA)


def test_reading_frames_loads_neither_training_nor_tracking_nor_a_cluster(folder: Path) -> None:
    used = {"cv2", "numpy", "pyarrow", "pydantic", "yaml"}
    for step, out in ((("ingest", "pretrain"), "frames"), (("pair", "pretrain", "frames"), "pairs")):
        packages = loaded(folder, *step, "--out", out, "--no-track")
        assert (folder / out / "manifest.json").is_file()
        assert used <= packages
        tries_calibrations = {"scipy"} if step[0] == "ingest" else set()
        assert not packages & ((TRAINING - tries_calibrations) | TRACKING | CLUSTER | {"laspy", "rosbags"})


def test_the_data_image_does_without_what_the_server_of_mlflow_needs() -> None:
    left_out = {"pandas": "pandas", "scikit-learn": "sklearn", "flask": "flask", "matplotlib": "matplotlib"}
    lock = (ROOT / "requirements-data.lock").read_text(encoding="utf-8")
    locked = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    assert {"mlflow-skinny", "scipy", "sqlalchemy", "alembic"} <= locked
    assert locked.isdisjoint({*left_out, "mlflow", "torch"})
    program = f"import sys; sys.modules.update(dict.fromkeys({list(left_out.values())})); "
    program += "import simipu_core.tracking.mlflow_run; from simipu_core.stages import configure, ingest, pair"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_evaluating_without_tracking_loads_none(folder: Path) -> None:
    packages = loaded(folder, "evaluate", "missing", "missing", "--out", "report", "--no-track")
    assert "timm" in packages
    assert not packages & (TRACKING | CLUSTER)
