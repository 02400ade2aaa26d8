"""What each role's key may do in object storage: the policies in deploy/, held by a real S3 server."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from simipu_core import storage
from simipu_core.training.stores import open_store
from tests.servers import SeaweedFS, seaweedfs

POLICIES = Path(__file__).parents[2] / "deploy" / "object-store"
PLACES = {"raw": "simipu-data/raw", **{name: f"simipu/{name}" for name in ("pipelines", "checkpoints", "mlflow")}}
MAY = {
    "data": {"raw": "read"},
    "training": {"raw": "read", "pipelines": "read", "checkpoints": "write"},
    "artifacts": {"pipelines": "write"},
    "mlflow": {"mlflow": "write"},
}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    policies = {role: (POLICIES / f"{role}.json").read_text(encoding="utf-8") for role in MAY}
    with seaweedfs(tmp_path_factory.mktemp("s3"), policies) as running:
        admin = client(running.environment)
        for bucket in ("simipu", "simipu-data"):
            admin.create_bucket(Bucket=bucket)
        for place in PLACES.values():
            bucket, _, prefix = place.partition("/")
            admin.put_object(Bucket=bucket, Key=f"{prefix}/file", Body=b"whole")
        yield running


@pytest.fixture
def login(server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives this process the key of a role."""

    def use(role: str) -> None:
        for name, value in server.of(role).items():
            monkeypatch.setenv(name, value)

    return use


def client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


@pytest.mark.parametrize(("role", "place"), list(product(MAY, PLACES)))
def test_a_key_opens_what_its_role_needs_and_nothing_else(server: SeaweedFS, role: str, place: str) -> None:
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    s3, may = client(server.of(role)), MAY[role].get(place)
    bucket, _, prefix = PLACES[place].partition("/")
    file, other = {"Bucket": bucket, "Key": f"{prefix}/file"}, {"Bucket": bucket, "Key": f"{prefix}/by-{role}"}
    attempts: list[tuple[bool, Callable[[], Any]]] = [
        (may is not None, lambda: s3.get_object(**file)),
        (may is not None, lambda: s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")),
        (may == "write", lambda: s3.put_object(**other, Body=b"changed")),
        (may == "write", lambda: s3.delete_object(**other)),
    ]
    for is_allowed, attempt in attempts:
        if is_allowed:
            attempt()
        else:
            with pytest.raises(ClientError, match="AccessDenied"):
                attempt()
    assert client(server.environment).get_object(**file)["Body"].read() == b"whole"


def test_training_keeps_its_checkpoints_with_its_key(login: Callable[[str], None]) -> None:
    login("training")
    store = open_store("s3://simipu/checkpoints/key")
    with store.held():
        store.write("one", b"1")
    store.write("two", b"2" * (20 << 20))  # in parts
    store.keep({"two"})
    assert store.names() == {"two"}
    assert store.read("two") == b"2" * (20 << 20)
    assert storage.place("s3://simipu/pipelines").joinpath("file").read_bytes() == b"whole"


def test_parsing_raw_data_needs_no_more_than_its_key(login: Callable[[str], None]) -> None:
    login("data")
    raw = storage.place("s3://simipu-data/raw")
    assert [path.name for path in raw.iterdir()] == ["file"]
    assert (raw / "file").read_bytes() == b"whole"
