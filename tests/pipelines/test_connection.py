import json
import os
from pathlib import Path

import pytest

from pipelines.connection import OPEN, find
from simipu_core.errors import SimipuError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("KFP_", "KF_PIPELINES_", "KUBERNETES_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("https://kubeflow.example.com/pipeline/", "https://kubeflow.example.com/pipeline"),
        ("kubeflow.example.com", "https://kubeflow.example.com"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://my_host.:80", "http://my_host.:80"),
        ("http://müller.example", "http://müller.example"),
        ("http://localhost:8080/#/runs", "http://localhost:8080"),
        ("https://kubeflow.example.com/_/pipeline/?ns=a", "https://kubeflow.example.com/pipeline"),
    ],
)
def test_addresses_are_taken_as_people_copy_them(given: str, host: str) -> None:
    assert find(given).host == host


def test_the_environment_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://sdk:1")
    assert find().host == "http://sdk:1"
    monkeypatch.setenv("KFP_ENDPOINT", "http://ours:1")
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    assert (find().host, find().namespace) == ("http://ours:1", "team-a")
    assert (find("http://given:1", "b").host, find("http://given:1", "b").namespace) == ("http://given:1", "b")


def test_in_a_pod_the_cluster_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert find().host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


@pytest.mark.parametrize(
    ("host", "match"),
    [
        (None, "where is Kubeflow Pipelines"),
        ("ftp://kubeflow", "is no address"),
        ("https://", "is no address"),
        ("http://[::1", "is no address"),
        ("http://[::z]", "is no address"),
        ("http://x:99999", "is no address"),
        ("http://x:y", "is no address"),
        ("http://ex mple", "is no address"),
        ("http://a..b", "is no address"),
        ("https://ada:secret@kubeflow", "leave user and password out"),
        ("https://ada:secret@[::1", "leave user and password out"),
    ],
)
def test_other_addresses_are_refused(host: str | None, match: str) -> None:
    with pytest.raises(SimipuError, match=match) as caught:
        find(host)
    assert "secret" not in str(caught.value)


def test_without_a_credential_the_endpoint_is_taken_as_open() -> None:
    assert find("http://a").credential is OPEN
    assert OPEN.headers() == {}


@pytest.mark.parametrize(
    ("name", "value", "headers"),
    [
        ("KFP_TOKEN", "abc\n", {"Authorization": "Bearer abc"}),
        ("KFP_TOKEN", "Bearer abc", {"Authorization": "Bearer abc"}),
        ("KFP_COOKIE", "authservice_session=x; a=b", {"Cookie": "authservice_session=x; a=b"}),
    ],
)
def test_credentials_come_from_the_environment(
    name: str, value: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    connection = find("http://a")
    assert connection.credential.headers() == headers
    assert "abc" not in repr(connection)
    assert "session" not in repr(connection)


def test_a_file_is_read_anew_for_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("KFP_TOKEN_FILE", str(file))
    credential = find("http://a").credential
    with pytest.raises(SimipuError, match=r"KFP_TOKEN_FILE: .*token cannot be read \(No such file or directory\)"):
        credential.headers()
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert credential.headers() == {"Authorization": f"Bearer {token}"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_pod_shows_its_service_account_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    credential = find("http://a").credential
    with pytest.raises(SimipuError, match=r"mount a projected volume with the audience pipelines\.kubeflow\.org"):
        credential.headers()
    file.write_text("projected")
    assert credential.headers() == {"Authorization": "Bearer projected"}


@pytest.mark.parametrize("token", ["two words", "\x00", "schlüssel", "  "])
def test_what_cannot_be_sent_is_refused(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(SimipuError, match="KFP_TOKEN_FILE: holds no token"):
        find("http://a").credential.headers()


def test_two_credentials_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", "abc")
    monkeypatch.setenv("KFP_COOKIE", "a=b")
    with pytest.raises(SimipuError, match="KFP_TOKEN and KFP_COOKIE are both set; unset one"):
        find("http://a")


def test_a_missing_ca_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_CA_FILE", "nowhere.pem")
    with pytest.raises(SimipuError, match=r"KFP_CA_FILE: there is no file nowhere\.pem"):
        find("https://a")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Bearer e." + "x" * 600, "token e." + "x" * 600),
        ("authservice_session=MTY5abc; other=defg", "bad session MTY5abc"),
    ],
)
def test_a_credential_that_the_server_repeats_is_masked_before_its_message_is_cut(header: str, said: str) -> None:
    from types import SimpleNamespace

    from pipelines.api import _refused

    answer = SimpleNamespace(status=403, body=json.dumps({"message": said}), reason="Forbidden", headers={})
    told = str(_refused(find("http://a"), answer, header))
    assert f"{said.rpartition(' ')[0]} ***" in told
    assert said.split()[-1][:40] not in told


def test_the_address_of_the_pages_is_shown_without_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://ada:hunter2@kubeflow.example/_/pipeline/")
    assert find("http://a").ui == "https://kubeflow.example/_/pipeline"
