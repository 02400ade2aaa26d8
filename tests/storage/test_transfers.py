"""Artifacts and DVC directories to and from S3."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simipu_core import storage
from simipu_core.artifacts import MANIFEST, Manifest, local_artifact, read_manifest, write_artifact
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path, StorageError, s3
from tests.proxy import Fault, Proxy
from tests.samples import verify_files
from tests.storage.conftest import Upload

pytestmark = pytest.mark.slow

LARGE = 20 << 20


def write(out: Path, files: dict[str, bytes], **settings: Any) -> Manifest:
    keywords: dict[str, Any] = {"inputs": {}, "parameters": {}, "licence": "CC0-1.0", **settings}
    with write_artifact(out, "catalogue", **keywords) as draft:
        for name, data in files.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data)
    return read_manifest(out)


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    return {"a.bin": random.Random(0).randbytes(LARGE), "deep/b.txt": b"b", "empty": b""}


def dvc_folder(folder: Path, content: dict[str, bytes]) -> str:
    """Writes the objects of a DVC directory; gives the name of the listing below the folder."""
    listing = []
    for name, data in content.items():
        md5 = hashlib.md5(data).hexdigest()
        (folder / "files/md5" / md5[:2]).mkdir(parents=True, exist_ok=True)
        (folder / "files/md5" / md5[:2] / md5[2:]).write_bytes(data)
        listing.append({"md5": md5, "relpath": name})
    text = json.dumps(listing).encode()
    md5 = hashlib.md5(text).hexdigest()
    (folder / "files/md5" / md5[:2]).mkdir(exist_ok=True)
    (folder / "files/md5" / md5[:2] / f"{md5[2:]}.dir").write_bytes(text)
    return f"files/md5/{md5[:2]}/{md5[2:]}.dir"


def test_an_artifact_goes_there_and_back_once(
    bucket: S3Path, weed: Proxy, content: dict[str, bytes], tmp_path: Path
) -> None:
    out = bucket / "catalogue"
    manifest = write(out, content, origin="s3://raw/kitti")
    puts = [request for request in weed.requests if request.startswith(("PUT", "POST"))]
    assert puts[-1].endswith(f"catalogue/{MANIFEST}")
    assert sum("a.bin?" in request for request in puts) == 2 + 2  # two parts, begun and completed
    same = write(tmp_path / "same", content, origin="s3://raw/kitti")
    assert manifest == same.model_copy(update={"created": manifest.created}).summed()
    assert list((tmp_path / "cache/outgoing").iterdir()) == []

    weed.requests.clear()
    folder = local_artifact(out)
    assert folder.parent == tmp_path / "cache"
    verify_files(folder, read_manifest(folder, "catalogue"))
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert len(weed.requests) == 1 + 3 + 2  # manifest, first parts, other parts
    weed.requests.clear()
    assert local_artifact(out) == folder
    assert weed.requests == [f"GET /{bucket.bucket}/{out.key}/{MANIFEST}"]
    assert local_artifact(tmp_path / "same") == tmp_path / "same"


def test_artifacts_of_one_content_but_another_origin_are_kept_apart(bucket: S3Path) -> None:
    one = write(bucket / "one", {"a": b"a"}, origin="s3://here/raw")
    two = write(bucket / "two", {"a": b"a"}, origin="s3://there/raw")
    assert one.digest == two.digest
    assert read_manifest(local_artifact(bucket / "two")).origin == "s3://there/raw"
    assert read_manifest(local_artifact(bucket / "one")).origin == "s3://here/raw"


def test_an_artifact_is_never_replaced(bucket: S3Path) -> None:
    write(bucket / "out", {"a": b"a"})
    with pytest.raises(SimipuError, match=r"/out: already exists; remove it or choose"):
        write(bucket / "out", {"a": b"b"})
    with (
        pytest.raises(StorageError, match=r"/race: another process has written there meanwhile, and has won; use"),
        write_artifact(bucket / "race", "catalogue", inputs={}, parameters={"a": 1}, licence="none"),
    ):
        write(bucket / "race", {})
    with pytest.raises(SimipuError, match=r"is a whole bucket; write s3://bucket/prefix"):
        write(S3Path.at(f"s3://{bucket.bucket}"), {})


def test_a_failed_upload_leaves_no_artifact_and_no_parts(
    bucket: S3Path, weed: Proxy, content: dict[str, bytes], tmp_path: Path
) -> None:
    weed.faults.append(Fault("error", "partNumber=2", times=99))
    with pytest.raises(StorageError, match=r"a.bin: the server is overloaded or failing \(SlowDown\)"):
        write(bucket / "out", content)
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket.bucket, Prefix=bucket.prefix)
    assert not (bucket / "out" / MANIFEST).exists()
    with pytest.raises(SimipuError, match="not an artifact"):
        local_artifact(bucket / "out")
    assert list((tmp_path / "cache/outgoing").iterdir()) == []
    weed.faults.clear()
    write(bucket / "out", content)


def test_parts_of_a_killed_upload_are_removed_by_the_next(bucket: S3Path) -> None:
    s3.client().create_multipart_upload(Bucket=bucket.bucket, Key=(bucket / "out/a.bin").key)
    write(bucket / "out", {"a.bin": b"a"})
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket.bucket, Prefix=bucket.prefix)


def test_of_two_writers_the_one_that_lost_its_upload_is_told(
    bucket: S3Path, weed: Proxy, content: dict[str, bytes]
) -> None:
    out, other = bucket / "out", {"b.bin": b"b"}
    is_first = iter([True])

    def other_writes(request: str) -> None:
        if "partNumber=2" in request and next(is_first, False):
            write(out, other)

    weed.watch = other_writes
    with pytest.raises(StorageError) as told:
        write(out, content)
    assert str(told.value) == (
        f"{out}/a.bin: another process that writes there has won (NoSuchUpload); wait for it and use what it writes, "
        "or choose another place."
    )
    folder = local_artifact(out)
    verify_files(folder, read_manifest(folder, "catalogue"))


def test_a_server_that_knows_neither_conditions_nor_unfinished_uploads_will_do(
    bucket: S3Path, weed: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    weed.faults += [
        Fault("error", times=99, status=501, code="NotImplemented", header="If-None-Match"),
        Fault("error", "uploads", times=99, status=403, code="AccessDenied"),
    ]
    write(bucket / "out", {"a": b"a"})
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"warning: {bucket}/out: unfinished uploads cannot be listed",
        f"warning: {bucket}/out: this server replaces objects even if told not to; let no two runs write there at a "
        "time.",
    ]
    assert [path.name for path in (bucket / "out").iterdir()] == ["a", MANIFEST]
    with (
        pytest.raises(StorageError, match=r"/race: another process has written there meanwhile, and has won; use"),
        write_artifact(bucket / "race", "catalogue", inputs={}, parameters={"a": 1}, licence="none"),
    ):
        write(bucket / "race", {})


def test_an_answer_that_is_lost_does_not_matter(bucket: S3Path, weed: Proxy) -> None:
    weed.faults.append(Fault("drop", f"PUT /{bucket.bucket}/{bucket.key}/out/{MANIFEST}"))
    write(bucket / "out", {"a": b"a"})


@dataclass
class Source:
    """The content in S3, as an artifact or a DVC directory."""

    fetch: Callable[[], Path]
    large: str
    """Key of the large file."""
    small: list[str]
    """Keys of the others."""


@pytest.fixture(params=["artifact", "dvc"])
def source(
    request: pytest.FixtureRequest, bucket: S3Path, upload: Upload, content: dict[str, bytes], tmp_path: Path
) -> Source:
    if request.param == "artifact":
        write(bucket / "out", content)
        large, *small = (f"{bucket.key}/out/{name}" for name in content)
        return Source(lambda: local_artifact(bucket / "out"), large, small)
    uri = f"{bucket}/{dvc_folder(tmp_path / 'remote', content)}"
    upload(tmp_path / "remote")
    digests = [hashlib.md5(data).hexdigest() for data in content.values()]
    large, *small = (f"{bucket.key}/files/md5/{md5[:2]}/{md5[2:]}" for md5 in digests)
    return Source(lambda: storage.resolve(uri), large, small)


def test_a_download_that_broke_off_goes_on_where_it_stopped(
    source: Source, weed: Proxy, content: dict[str, bytes]
) -> None:
    weed.faults.append(Fault("cut", source.large, times=99))
    with pytest.raises(StorageError, match=rf"{source.large}: the connection broke off"):
        source.fetch()
    weed.faults.clear()
    weed.requests.clear()
    folder = source.fetch()
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert sum(source.large in request for request in weed.requests) == 3
    assert not any(key in request for key in source.small for request in weed.requests)


def test_contents_that_do_not_match_are_refused(source: Source, bucket: S3Path, tmp_path: Path) -> None:
    s3.client().put_object(Bucket=bucket.bucket, Key=source.large, Body=bytes(LARGE))
    with pytest.raises(StorageError, match=rf"{source.large}: its content does not match its (md5|sha256)"):
        source.fetch()
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")] in ([], ["outgoing"])


def test_missing_objects_are_named(source: Source, bucket: S3Path) -> None:
    s3.client().delete_object(Bucket=bucket.bucket, Key=source.small[0])
    with pytest.raises(SimipuError, match=rf"{source.small[0]}: (missing|this DVC object is missing)") as told:
        source.fetch()
    assert not isinstance(told.value, StorageError)


def test_a_dvc_listing_that_does_not_match_is_refused(tmp_path: Path, upload: Upload) -> None:
    name = dvc_folder(tmp_path / "remote", {"a": b"a"})
    (tmp_path / "remote" / name).write_text("[]")
    with pytest.raises(SimipuError, match="does not match its name"):
        storage.resolve(f"{upload(tmp_path / 'remote')}/{name}")


def test_names_that_leave_the_folder_are_refused(tmp_path: Path, bucket: S3Path, upload: Upload) -> None:
    name = dvc_folder(tmp_path / "remote", {"../a": b"a"})
    with pytest.raises(SimipuError, match="leads out of the folder"):
        storage.resolve(f"{upload(tmp_path / 'remote')}/{name}")
    write(tmp_path / "out", {"a": b"a"})
    manifest = tmp_path / "out" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"a": {', '"../a": {'))
    with pytest.raises(SimipuError, match="leads out of the folder"):
        local_artifact(upload(tmp_path / "out", "bad"))
    assert not (tmp_path / "cache/a").exists()


def test_a_folder_in_s3_is_pinned_by_its_listing(tmp_path: Path, upload: Upload) -> None:
    (tmp_path / "raw/deep").mkdir(parents=True)
    (tmp_path / "raw/deep/a").write_text("a")
    place = upload(tmp_path / "raw", "raw")
    uri = storage.pin(place)
    assert uri.startswith(f"{place}#")
    assert storage.resolve(uri) == place
    assert storage.absolute(uri) == uri
    s3.client().put_object(Bucket=place.bucket, Key=(place / "deep/a").key, Body=b"b")
    with pytest.raises(SimipuError, match=rf"{place}: its files changed since the run was submitted"):
        storage.resolve(uri)
    with pytest.raises(SimipuError, match=r"nowhere: no such folder; set `root`"):
        storage.pin(place / "nowhere")
