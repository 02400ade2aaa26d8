"""Networks and servers that fail: what is tried again, and how it is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from simipu_core.config import PairConfig
from simipu_core.data.catalogue import examine
from simipu_core.data.frames import Rejected
from simipu_core.errors import SimipuError
from simipu_core.stages.ingest import ingest
from simipu_core.stages.pair import pair
from simipu_core.storage import S3Path, StorageError, s3
from tests.data import files
from tests.proxy import Fault, Proxy
from tests.sources import any_source
from tests.storage.conftest import Upload

KITTI = any_source(kind="kitti_object")


def one_line_without_credentials(error: BaseException) -> str:
    assert "\n" not in str(error)
    assert not any(word in str(error) for word in ("simipu-secret", "Signature=", "AKIA"))
    return str(error)


def test_a_dead_endpoint_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simipu-secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place = S3Path.at("s3://bucket/raw")
    for act in (place.is_dir, place.read_bytes, lambda: list(place.rglob("*"))):
        with pytest.raises(StorageError) as told:
            act()
        message = one_line_without_credentials(told.value)
        assert message.startswith("s3://bucket/raw")
        assert "the server does not answer (EndpointConnectionError); check AWS_ENDPOINT_URL" in message


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_MAX_ATTEMPTS", "many")])
def test_senseless_settings_are_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=f"^{name}: is no "):
        S3Path.at("s3://bucket/raw").exists()


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"there are no whole credentials \(NoCredentialsError\)"):
        S3Path.at("s3://bucket/raw").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("error", times=2),
        Fault("error", times=2, status=500, code="InternalError"),
        Fault("cut", "GET", times=2),
        Fault("hang", "raw.bin", times=1),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
def test_passing_faults_are_tried_again(
    tmp_path: Path, upload: Upload, weed: Proxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "raw/raw.bin", bytes(range(256)) * 4096)
    place = upload(tmp_path / "raw") / "raw.bin"
    if fault.kind == "hang":
        monkeypatch.setattr(s3, "_READ_SECONDS", 0.3)
        s3._client.cache_clear()
    weed.faults.append(fault)
    assert place.read_bytes() == bytes(range(256)) * 4096
    assert fault.times == 0
    assert len(weed.requests) > 1
    s3._client.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("error", times=99), r"the server is overloaded or failing \(SlowDown\); run again"),
        (Fault("error", times=99, status=400, code="ExpiredToken"), r"the credentials have expired \(ExpiredToken\)"),
        (Fault("error", times=99, status=403, code="AccessDenied"), r"access is refused \(AccessDenied\); check AWS_"),
        (Fault("cut", "raw.bin", times=99), r"the connection broke off \(\w+\); run again"),
        (Fault("error", times=99, status=418, code="Teapot"), r"S3 fails \(Teapot\)"),
    ],
    ids=lambda value: f"{value.kind} {value.code}" if isinstance(value, Fault) else "",
)
def test_lasting_faults_end_in_one_sentence(
    tmp_path: Path, upload: Upload, weed: Proxy, fault: Fault, message: str
) -> None:
    files.write(tmp_path / "raw/raw.bin", bytes(100_000))
    place = upload(tmp_path / "raw") / "raw.bin"
    weed.faults.append(fault)
    with pytest.raises(StorageError, match=message) as told:
        place.read_bytes()
    assert one_line_without_credentials(told.value).startswith(f"{place}: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "bucket", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, r"access is refused \(SignatureDoesNotMatch\)"),
        ({"AWS_ACCESS_KEY_ID": "AKIA-nobody"}, None, r"access is refused \(InvalidAccessKeyId\)"),
        ({}, "no-such-bucket", r"there is no such bucket \(NoSuchBucket\)"),
    ],
)
def test_what_the_server_refuses_is_told(
    weed: Proxy,
    server: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, str],
    bucket: str | None,
    message: str,
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    acts: list[Callable[[], object]] = [
        lambda: ingest(KITTI, tmp_path / "out", root=f"s3://{bucket or 'checkpoints'}/raw"),
        lambda: pair(S3Path.at(f"s3://{bucket or 'checkpoints'}/c"), PairConfig(), "pairs", tmp_path / "out"),
    ]
    for act in acts:
        with pytest.raises(SimipuError, match=message) as told:
            act()
        one_line_without_credentials(told.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def kitti(tmp_path: Path, upload: Upload) -> S3Path:
    files.kitti_object(tmp_path / "raw", 3)
    return upload(tmp_path / "raw", "raw")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["image_2/000001.png", "velodyne/000001.bin", "calib/000001.txt"])
def test_a_network_that_fails_is_no_broken_frame(kitti: S3Path, weed: Proxy, tmp_path: Path, file: str) -> None:
    fault = Fault("cut", f"GET /{kitti.bucket}/{kitti.key}/kitti_object/training/{file}", times=99)
    weed.faults.append(fault)
    source = KITTI.model_copy(update={"max_broken_share": 1.0})
    with pytest.raises(StorageError, match=rf"{file}: the connection broke off"):
        ingest(source, tmp_path / "out", root=str(kitti))
    assert fault.times == 96
    assert not (tmp_path / "out").exists()
    weed.faults.clear()
    assert ingest(source, tmp_path / "out", root=str(kitti)).counts["frames"] == 3


@pytest.mark.slow
def test_a_missing_or_damaged_object_is_a_broken_frame(tmp_path: Path, upload: Upload) -> None:
    training = files.kitti_object(tmp_path / "raw", 3)
    (training / "calib/000001.txt").unlink()
    files.write(training / "image_2/000002.png", b"GIF89a")
    root = upload(tmp_path / "raw", "raw")
    found = KITTI.list_frames(root)
    rejected = [frame for frame in found if isinstance(frame, Rejected)]
    assert [(frame.file.name, frame.reason) for frame in rejected] == [
        ("000001.txt", "the calibration file is missing")
    ]
    results = [examine(root, frame) for frame in found if not isinstance(frame, Rejected)]
    assert [type(result) for result in results] == [dict, Rejected]


@pytest.mark.slow
def test_an_empty_object_may_be_asked_for_in_parts(tmp_path: Path, upload: Upload, weed: Proxy) -> None:
    files.write(tmp_path / "raw/empty", b"")
    place = upload(tmp_path / "raw") / "empty"
    assert s3.read(place.bucket, place.key, (0, 8)) == b""
    weed.faults.append(Fault("error", "empty", status=416, code="InvalidRange"))  # how some servers say so
    assert s3.read(place.bucket, place.key, (0, 8)) == b""
