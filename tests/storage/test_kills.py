"""SIGKILL at any moment: nothing is lost or half-written, nothing lives on, and the next run completes."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simipu_core.artifacts import local_artifact, read_manifest
from simipu_core.config import PairConfig
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.storage import S3Path, s3
from tests.data import files
from tests.proxy import Proxy
from tests.samples import verify_files
from tests.sources import any_source
from tests.storage.conftest import Upload

pytestmark = pytest.mark.slow

FRAMES = 160
SETTINGS = """experiment: killed
pretrain_data: {kind: kitti_object, allow_faults: [points_in_image]}
pair: {min_points: 1, shard_mb: 1}
"""
SOURCE, PAIR = any_source(kind="kitti_object"), PairConfig(min_points=1, shard_mb=1)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the command line in a process of its own."""
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    simipu = Path(sys.executable).with_name("simipu")

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [str(simipu), *arguments, "-e", str(tmp_path / "settings.yaml"), "--no-track"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)

    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    files.kitti_object(folder, FRAMES)
    return folder


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process; returns when its workers, which share its output, are gone too."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def finish(process: subprocess.Popen[str]) -> None:
    shown = process.communicate()[0]
    assert process.returncode == 0, shown


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_local_ingest_and_pair(raw: Path, tmp_path: Path, start: Start) -> None:
    expected = ingest(SOURCE, tmp_path / "expected", root=str(raw))
    packed = pair(tmp_path / "expected", PAIR, "pairs", tmp_path / "packed")
    out = tmp_path / "out"
    out.mkdir()
    rng = random.Random(0)
    steps = {
        "catalogue": ("ingest", "pretrain", "--root", str(raw), "--out", str(out / "catalogue")),
        "pairs": ("pair", "pretrain", str(out / "catalogue"), "--out", str(out / "pairs")),
    }
    done: set[str] = set()
    for name, arguments in steps.items():
        pages = {f"{name}.html"} if name == "catalogue" else set()
        for _ in range(3):
            process = start(*arguments)
            try:
                process.wait(rng.uniform(0.5, 3))
            except subprocess.TimeoutExpired:
                kill(process)
            else:
                finish(process)
            left = {path for path in names(out) - done if not path.endswith(".partial")}
            assert left <= {name} | pages
            if name in left:
                read_manifest(out / name)
                break
        if not (out / name).exists():
            finish(start(*arguments))
        done |= {name} | pages
        assert names(out) == done
    assert read_manifest(out / "catalogue").digest == expected.digest
    assert read_manifest(out / "pairs").digest == packed.digest
    verify_files(out / "pairs", packed)


def killed_at(request: int, process: subprocess.Popen[str], weed: Proxy) -> None:
    """Kill a process when it sends so many more requests than now."""
    weed.requests.clear()

    def watch(_: str) -> None:
        if len(weed.requests) == request:
            process.send_signal(signal.SIGKILL)

    weed.watch = watch
    process.communicate(timeout=120)
    weed.watch = str
    assert process.returncode == -signal.SIGKILL


def is_there(bucket: S3Path) -> bool:
    return bool(list(s3.entries(bucket.bucket, f"{bucket.key}/out/manifest.json")))


@pytest.mark.parametrize("step", ["ingest", "pair"])
def test_reading_and_writing_in_s3(
    step: str, raw: Path, tmp_path: Path, upload: Upload, bucket: S3Path, weed: Proxy, start: Start
) -> None:
    root = upload(raw, "raw")
    expected = ingest(SOURCE, bucket / "catalogue", root=str(root))
    arguments: tuple[str, ...]
    if step == "ingest":
        arguments = ("ingest", "pretrain", "--root", str(root), "--out", f"{bucket}/out")
    else:
        expected = pair(bucket / "catalogue", PAIR, "pairs", tmp_path / "packed")
        arguments = ("pair", "pretrain", f"{bucket}/catalogue", "--out", f"{bucket}/out")
    weed.requests.clear()
    finish(start(*arguments))
    total = len(weed.requests)
    assert read_manifest(bucket / "out").digest == expected.digest
    last = next(index for index, request in enumerate(weed.requests) if request.endswith("/out/manifest.json"))
    for name in [*expected.files, "manifest.json"]:
        s3.client().delete_object(Bucket=bucket.bucket, Key=(bucket / "out" / name).key)

    for moment in (2, total // 2, last):
        killed_at(moment, start(*arguments), weed)
        assert not is_there(bucket)
    finish(start(*arguments))
    made = read_manifest(bucket / "out")
    assert made.files == expected.files
    verify_files(local_artifact(bucket / "out"), made)
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket.bucket, Prefix=bucket.prefix)
    assert names(tmp_path / "cache/outgoing") == set()


def test_uploads_and_downloads_of_large_files(tmp_path: Path, bucket: S3Path, weed: Proxy) -> None:
    programs = {
        "upload": """
import random, sys
from simipu_core.artifacts import write_artifact
from simipu_core.storage import place
with write_artifact(place(sys.argv[1]), "pairs", inputs={}, parameters={}, licence="none") as draft:
    for name in "abc":
        (draft.path / name).write_bytes(random.Random(name).randbytes(20 << 20))
""",
        "download": """
import sys
from simipu_core.artifacts import local_artifact
from simipu_core.storage import place
local_artifact(place(sys.argv[1]))
""",
    }

    def run(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", programs[name], f"{bucket}/out"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for moment in (4, 6, 9):
        killed_at(moment, run("upload"), weed)
        assert not is_there(bucket)
    finish(run("upload"))
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket.bucket, Prefix=bucket.prefix)
    assert names(tmp_path / "cache/outgoing") == set()
    for moment in (3, 6, 9):
        killed_at(moment, run("download"), weed)
        assert all(path.startswith(".") or path == "outgoing" for path in names(tmp_path / "cache"))
    finish(run("download"))
    folder = local_artifact(bucket / "out")
    verify_files(folder, read_manifest(folder))
    assert not any(path.name.startswith(".") for path in folder.iterdir())
