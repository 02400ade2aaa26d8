import json

import pytest
from mlflow.exceptions import MlflowException
from requests import Response  # type: ignore[import-untyped]

from simipu_core.tracking import identity

RECORDED = {"user": {"id": 2, "username": "simipu-promoter", "is_admin": False}, "is_basic_auth": True}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Response:
    """What MLflow answers; with the answer of one that knows this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("SIMIPU_USER", "ada")
    answer = Response()
    answer.status_code, answer._content = 200, json.dumps(RECORDED).encode()
    monkeypatch.setattr(identity, "ask", lambda endpoint, method: answer)
    return answer


def test_the_login_comes_first_and_the_claim_beside_it(answer: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.author() == "simipu-promoter (ada)"
    assert identity.author("run 7") == "simipu-promoter (run 7)"
    monkeypatch.setenv("SIMIPU_USER", "simipu-promoter")
    assert identity.author() == "simipu-promoter"


def test_where_there_are_no_logins_the_claim_stands_alone(answer: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    answer.status_code, answer._content = 404, b"<title>404 Not Found</title>"
    assert identity.author() == "ada"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert identity.author("run 7") == "run 7"
    monkeypatch.delenv("SIMIPU_USER")
    assert "@" in identity.author()


@pytest.mark.parametrize(
    ("status", "content"),
    [(401, b"not authenticated"), (403, b"no"), (503, b"away"), (200, b"<html>"), (200, b"{}"), (200, b'{"user": 3}')],
)
def test_any_other_answer_is_no_identity(answer: Response, status: int, content: bytes) -> None:
    answer.status_code, answer._content = status, content
    with pytest.raises(MlflowException):
        identity.author()
