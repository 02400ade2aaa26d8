"""Secrets do not leave: not in messages, tags, reports, arguments or files."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from simipu_core.errors import SimipuError
from simipu_core.redaction import has_password, has_userinfo, holds_secret, is_secret_name, redacted
from simipu_core.tracking.delivery import Entry
from simipu_core.tracking.mlflow_run import check_answering, connect, mlflow_errors, tracking_uri
from simipu_core.tracking.outbox import Outbox

PASSWORDS = ("hunter2", "p@ss/w rd", "a@b@c", "12/34", "se:cret", "100%", "ü-ñ", "x y@z")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "around", ["{}", "MLflow at {} cannot be used (timeout)", "{}/api: no", "see '{}', then mail a@b.c"]
)
def test_passwords_in_addresses_are_masked(around: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what any variable holds known exactly, and whatever characters are in the password."""
    uri = f"http://ada:{password}@mlflow:5000"
    monkeypatch.setenv("SOME_URI", uri)
    shown = redacted(around.format(uri))
    assert password not in shown
    assert "mlflow:5000" in shown


@pytest.mark.parametrize("password", ["hunter2", "p@ss/wrd", "p@ss w/rd", "a@b@c", "12/34", "se:cret"])
def test_passwords_of_unknown_addresses_are_masked(password: str) -> None:
    shown = redacted(f"postgresql://ada:{password}@db:5432/mlflow is away; see http://127.0.0.1:5000/#/experiments/1")
    assert shown == "postgresql://***@db:5432/mlflow is away; see http://127.0.0.1:5000/#/experiments/1"


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc/def ghi")
    assert redacted("got hf_abc/def ghi, or hf_abc%2Fdef%20ghi") == "got ***, or ***"
    assert (
        redacted("?password=letmein&x=1, Authorization: Basic YWRhOng=")
        == "?password=***&x=1, Authorization: Basic ***"
    )
    assert redacted("https://ghp_token123@github.com/x") == "https://***@github.com/x"


@pytest.mark.parametrize(
    "text",
    [
        "MLflow at http://mlflow:5000 cannot be used (timeout); write to a@b.c",
        "image registry.example/simipu@sha256:0123: its tag can be moved",
        "s3://bucket/files/md5/00/11.dir: no such file",
        "secret simipu-mlflow not found in namespace team-a",
        "Basic authentication is off; the token is missing",
        "sqlite:////home/ada/mlruns/mlflow.db",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert str(SimipuError(text)) == text


def test_the_values_of_cookies_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_COOKIE", "authservice_session=MTY5abc==; lang=en")
    assert redacted("bad session MTY5abc== in en") == "bad session *** in en"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("s3://user:hunter2@bucket/x", True),
        ("user:hunter2@proxy:3128", True),
        ("host=db password=hunter2", True),
        ("Bearer abcdefgh12345678", True),
        ("s3://b/x?X-Amz-Signature=0f", True),
        ("registry.example:5000/simipu:1@sha256:00", False),
        ("s3://bucket/user@date/x", False),
        ("http://proxy:3128", False),
        ("WARN", False),
        ("", False),
    ],
)
def test_secrets_in_settings_are_seen(text: str, holds: bool) -> None:
    assert holds_secret(text) is holds


def test_names_of_secrets() -> None:
    for name in (
        "AWS_SESSION_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD",
        "PGPASSWORD", "DB_PASSWD", "WANDB_API_KEY", "KFP_COOKIE", "AZURE_STORAGE_CONNECTION_STRING", "client_secret",
    ):  # fmt: skip
        assert is_secret_name(name), name
    for name in (
        "TOKENIZERS_PARALLELISM", "KFP_TOKEN_FILE", "NCCL_DEBUG", "SIMIPU_SIGNING_KEY", "SIMIPU_TRUSTED_KEYS",
    ):  # fmt: skip
        assert not is_secret_name(name), name


def test_logins_in_addresses_are_seen() -> None:
    for uri in ("http://ada:x@h", "http://token@h", "http://a:p/w@h", "postgresql+psycopg2://u:p@h/db"):
        assert has_userinfo(uri), uri
    for uri in ("http://h:5000", "sqlite:////a/b@c.db", "s3://bucket/key", "name@sha256:00", ""):
        assert not has_userinfo(uri), uri
    assert not has_password("postgresql://ada@h/db")


@pytest.mark.parametrize(
    ("uri", "said"),
    [(f"http://ada:{password}@h:1", "MLFLOW_TRACKING_USERNAME") for password in PASSWORDS]
    + [("https://token@h", "MLFLOW_TRACKING_USERNAME"), ("postgresql://ada:pass/w@rd@h/db", "PGPASSWORD")],
)
def test_a_tracking_uri_with_a_login_is_refused(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SimipuError, match=said) as caught:
        connect()
    assert "ada" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada@h/db")
    assert tracking_uri() == "postgresql://ada@h/db"


def test_what_others_raise_becomes_a_sentence_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss w/rd")
    with pytest.raises(SimipuError) as caught, mlflow_errors():
        raise OSError("refused for ada:p@ss w/rd at http://ada:p@ss w/rd@h:1")
    assert "p@ss" not in str(caught.value)


def test_what_goes_to_mlflow_and_what_the_outbox_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss w/rd")
    sent: list[Entry] = []

    def send(entry: Entry) -> None:
        if not sent:
            sent.append(entry)
            raise ConnectionError("http://ada:p@ss w/rd@h:1 is away")
        sent.append(entry)

    box = Outbox(send, "http://h:1", tmp_path)
    box.put(Entry(run_id="r", kind="tags", values={"simipu.error": "no p@ss w/rd", "cause": "http://a:b c@h"}))
    assert box.close(30) == []
    assert sent[-1].values == {"simipu.error": "no ***", "cause": "http://***@h"}
    said = capsys.readouterr().err
    assert "does not take numbers now" in said
    assert "p@ss" not in said


def test_the_store_is_no_argument_of_the_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody on the machine can read arguments."""
    started: list[list[str]] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    runpy.run_module("simipu_core.tracking.ui", run_name="__main__")
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "sqlite:///x.db"
    assert started
    assert not any("sqlite" in argument for argument in started[0])


def test_the_ui_is_shown_the_store_of_a_folder_with_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []
    folder, links = tmp_path / "100% ü?", tmp_path / "links"
    (folder / "mlruns").mkdir(parents=True)
    links.mkdir()
    (folder / "params.yaml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(links))
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(program))
    runpy.run_module("simipu_core.tracking.ui", run_name="__main__")
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{links}/store/mlflow.db"
    assert (links / "store").resolve() == folder / "mlruns"
    assert started == [str(links / "python" / "bin" / Path(sys.executable).name)]


def test_a_registry_that_is_away_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        SimipuError, match=r"http://127\.0\.0\.1:9: nothing answers there; start it or its port-forward"
    ):
        check_answering()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    with pytest.raises(SimipuError, match="MLFLOW_TRACKING_URI is localhost:5000; write http://localhost:5000"):
        check_answering()
