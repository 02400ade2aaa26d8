from pathlib import Path

import pytest

from simipu_core import addresses, project, storage
from simipu_core.errors import SimipuError
from tests.sources import any_source


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("data/kitti", "data/kitti"),
        ("/data/a:b/c", "/data/a:b/c"),
        ("./gs://x", "./gs://x"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3a://bucket/prefix", "s3://bucket/prefix"),
        ("S3N://bucket", "s3://bucket"),
        ("s3://my.bucket-1/deep/my drive/", "s3://my.bucket-1/deep/my drive/"),
        ("file:///data/my%20drive", "/data/my drive"),
        ("file://localhost/data", "/data"),
        ("file:/data", "/data"),
    ],
)
def test_an_address_is_a_local_path_or_one_in_s3(address: str, expected: str) -> None:
    assert addresses.plain(address) == expected
    assert str(storage.place(address)) == (expected.rstrip("/") if "s3:" in expected else str(Path(expected)))


MEND = (
    "copy or mount it as a local folder, or use S3 (s3://bucket/prefix, on any endpoint that AWS_ENDPOINT_URL names)."
)
NAME = "a name has 3 to 63 lower-case letters, digits, dots and hyphens, a letter or digit at each end."
KEY = "write names, not . or .., with one slash between them."
NO_BUCKETS = ("ab", "a" * 64, "My-Bucket", "my_bucket", "-bucket", "bucket-", "a..b", "192.168.0.1", "bücket")
NO_KEYS = ("/kitti", "a//b", "a/./b", "a/../b", "..")
REFUSED = {
    "gs://bucket/kitti": f"gs://bucket/kitti: addresses of Google Cloud Storage (gs://) are not read; {MEND}",
    "abfs://container/k": f"abfs://container/k: addresses of Azure Storage (abfs://) are not read; {MEND}",
    "hdfs://node:8020/k": f"hdfs://node:8020/k: addresses of Hadoop (hdfs://) are not read; {MEND}",
    "https://host/k?key=1": f"https://host/k: addresses of another machine (https://) are not read; {MEND}",
    "dbfs:/mnt/k": f"dbfs:/mnt/k: addresses of a kind that is not known (dbfs://) are not read; {MEND}",
    "file://data/kitti": "file://data/kitti: names the machine data; write the local path, or file:///folder.",
    "s3:/bucket/kitti": "s3:/bucket/kitti: is no address; write s3://bucket/prefix.",
    **{f"s3a://{bucket}/kitti": f"s3://{bucket}: no bucket can be called so; {NAME}" for bucket in NO_BUCKETS},
    **{f"s3://bucket/{key}": f"s3://bucket/{key}: leads to no folder; {KEY}" for key in NO_KEYS},
    f"s3://bucket/{'é' * 401}": (
        f"s3://bucket/{'é' * 40}…: is 802 bytes long, "
        "which leaves no room for the names below; choose a prefix of at most 800."
    ),
}


@pytest.mark.parametrize("address", REFUSED)
def test_other_storage_is_refused_by_name_and_no_folder_is_called_so(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", address)
    for attempt in (
        lambda: storage.place(address),
        lambda: storage.resolve(address),
        lambda: storage.local_place(address),
        project.checkpoints,
    ):
        with pytest.raises(SimipuError) as refused:
            attempt()
        assert str(refused.value) == REFUSED[address]
    with pytest.raises(SimipuError) as configured:
        any_source(kind="kitti_object", root=address)
    assert str(configured.value) == f"source: `root`: {REFUSED[address]}"
    assert list(tmp_path.iterdir()) == []


def test_what_needs_a_local_disk_refuses_s3() -> None:
    with pytest.raises(SimipuError, match=r"^s3a://bucket/out: is needed on a local disk here; give a local path.$"):
        storage.local_place("s3a://bucket/out")
    assert storage.local_place("file:///tmp/out") == Path("/tmp/out")
