"""Servers that know less than S3, and keys that may do less, are found before work begins."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import ANY, Stubber  # type: ignore[import-untyped]

from simipu_core.storage import S3Path, StorageError, s3
from simipu_core.storage.probe import _probe, probe
from simipu_core.storage.uploads import check_new
from simipu_core.training.stores import open_store

PLACE = S3Path.at("s3://bucket/out")


class Server:
    """Answers the requests of one probe, in their order."""

    def __init__(self, stubber: Stubber) -> None:
        self._stubber = stubber

    def puts(self, code: str = "", *, is_plain: bool = False) -> None:
        asked = {} if is_plain else {"IfNoneMatch": "*"}
        self._answer("put_object", code, {"Bucket": "bucket", "Key": ANY, "Body": b"", **asked})

    def deletes(self, code: str = "") -> None:
        self._answer("delete_object", code, {"Bucket": "bucket", "Key": ANY})

    def lists_uploads(self, code: str = "") -> None:
        self._answer("list_multipart_uploads", code, {"Bucket": "bucket", "Prefix": "out/"})

    def lists(self) -> None:
        self._answer("list_objects_v2", "", None)

    def _answer(self, method: str, code: str, expected: dict[str, Any] | None) -> None:
        if code:
            self._stubber.add_client_error(method, code, expected_params=expected)
        else:
            self._stubber.add_response(method, {}, expected)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    _probe.cache_clear()
    with Stubber(s3.client()) as stubber:
        yield Server(stubber)
        stubber.assert_no_pending_responses()
    _probe.cache_clear()


def test_a_server_that_knows_all_is_asked_once_and_nothing_is_said(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.puts()
    server.puts("PreconditionFailed")
    server.deletes()
    server.lists_uploads()
    assert probe(PLACE)
    assert probe(PLACE)
    assert capsys.readouterr().err == ""


REPLACES = (
    "warning: s3://bucket/out: this server replaces objects even if told not to; let no two runs write there at a time."
)
NO_LIST = (
    "warning: s3://bucket/out: unfinished uploads cannot be listed ({}), so what killed steps leave of theirs stays; "
    "allow s3:ListBucketMultipartUploads, or have the bucket remove it by a rule of its own."
)


@pytest.mark.parametrize("code", ["NotImplemented", "501", "InvalidArgument", ""])
def test_a_server_that_replaces_what_it_should_not_is_told(
    server: Server, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    server.puts(code)
    server.puts(is_plain=bool(code))
    server.deletes()
    server.lists_uploads()
    assert not probe(PLACE)
    assert capsys.readouterr().err.splitlines() == [REPLACES]


@pytest.mark.parametrize("code", ["AccessDenied", "403", "NotImplemented"])
def test_uploads_that_cannot_be_listed_are_told_and_stop_nothing(
    server: Server, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    server.puts("PreconditionFailed")
    server.deletes()
    server.lists_uploads(code)
    assert probe(PLACE)
    assert capsys.readouterr().err.splitlines() == [NO_LIST.format(code)]
    server.lists_uploads(code)
    s3.abort_unfinished_uploads("bucket", "out/")


def test_an_upload_that_ended_meanwhile_is_not_missed(server: Server) -> None:
    key = {"Key": "out/a", "UploadId": "1"}
    server._stubber.add_response("list_multipart_uploads", {"Uploads": [key]}, None)
    server._answer("abort_multipart_upload", "NoSuchUpload", {"Bucket": "bucket", **key})
    s3.abort_unfinished_uploads("bucket", "out/")


def test_what_cannot_be_removed_stops_only_where_it_will_be(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.puts("PreconditionFailed")
    server.deletes("AccessDenied")
    server.lists_uploads()
    assert probe(PLACE)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        "warning: s3://bucket/out: objects cannot be removed (AccessDenied), so an empty one stays, out/.simipu-probe-"
    )
    server.puts("PreconditionFailed")
    server.deletes("AccessDenied")
    with pytest.raises(
        StorageError, match=r"^s3://bucket/out: access is refused \(AccessDenied\); check AWS_ACCESS_KEY"
    ):
        probe(PLACE, removes=True)


def test_checkpoints_that_could_not_be_removed_are_refused_before_training(server: Server) -> None:
    server.puts("PreconditionFailed")
    server.deletes("AccessDenied")
    with pytest.raises(StorageError, match=r"^s3://bucket/out: access is refused \(AccessDenied\)"):
        open_store("s3://bucket/out").held()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDenied", "access is refused (AccessDenied); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or "
         "AWS_PROFILE, and what they may do."),
        ("NoSuchBucket", "there is no such bucket (NoSuchBucket); make it or mend the address."),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_before_work(server: Server, code: str, sentence: str) -> None:
    server.lists()
    server.puts(code)
    with pytest.raises(StorageError) as told:
        check_new(PLACE, "manifest.json")
    assert str(told.value) == f"s3://bucket/out: {sentence}"


def test_a_server_that_does_not_know_how_uploads_are_summed_is_told(server: Server) -> None:
    server.puts("NotImplemented")
    server.puts("NotImplemented", is_plain=True)
    with pytest.raises(StorageError) as told:
        probe(PLACE)
    assert str(told.value) == (
        "s3://bucket/out: the server does not know this kind of request (NotImplemented); set "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required."
    )
