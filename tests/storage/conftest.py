from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simipu_core.storage import S3Path, s3
from tests.proxy import Proxy, proxy
from tests.servers import SeaweedFS, seaweedfs

Upload = Callable[..., S3Path]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def weed(server: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of SeaweedFS that this process's clients use, and a cache of the test's own."""
    with proxy(server.environment["AWS_ENDPOINT_URL"]) as running:
        for name, value in (server.environment | {"AWS_ENDPOINT_URL": running.url}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("random.random", lambda: 0.01)  # pauses between tries
        yield running


@pytest.fixture
def bucket(server: SeaweedFS, weed: Proxy, tmp_path: Path) -> S3Path:
    """A prefix of the test's own."""
    return S3Path.at(f"s3://{server.bucket}/{tmp_path.name}")


@pytest.fixture
def upload(bucket: S3Path, weed: Proxy) -> Upload:
    """Uploads a folder's files below the test's prefix; requests until then are not counted."""

    def run(folder: Path, name: str = "") -> S3Path:
        for path in folder.rglob("*"):
            if path.is_file():
                key = (bucket / name / path.relative_to(folder).as_posix()).key
                s3.client().upload_file(str(path), bucket.bucket, key)
        weed.requests.clear()
        return bucket / name

    return run
