"""Logs of pods, wherever they are."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from urllib3.exceptions import HTTPError

from pipelines.answers import read_json
from pipelines.api import Api, ApiError
from pipelines.workflow import Pod, StoredLog

_TAIL = 2**18
"""Bytes of a log that are kept."""


def pod_log(api: Api, host: str, run_id: str, pod: Pod, namespace: str) -> str | None:
    """Log of a pod, also after it is gone; None where there is none.

    The API server has it from the pod or its archive. Through the UI's address there is the pod's, as long as it
    exists, and then what the launcher has put into the object store.
    """
    found = _text(api, f"{host}/apis/v1alpha1/runs/{run_id}/nodes/{pod.node_id}/log", {})
    if found is None:
        query = {"podname": pod.name, "runid": run_id, "podnamespace": namespace}
        found = _text(api, f"{host}/k8s/pod/logs", query)
    if found is None and pod.log is not None:
        found = _text(api, f"{host}/artifacts/get", _stored(pod.log, namespace))
    return found


def _text(api: Api, url: str, query: Mapping[str, str]) -> str | None:
    """The end of a text; None where there is a web page or an error instead, which may come with status 200."""
    given = [(key, value) for key, value in query.items() if value]
    try:
        answer = api.request("GET", url, query_params=given, _preload_content=False)
    except ApiError:
        return None
    if "html" in (answer.headers.get("content-type") or ""):
        return None
    text = _tail(answer)
    return None if _is_error(text) else text


def _stored(log: StoredLog, namespace: str) -> dict[str, str]:
    known = {"source": log.scheme, "bucket": log.bucket, "key": log.key, "namespace": namespace}
    return {**known, "providerInfo": log.provider}


def _is_error(text: str) -> bool:
    try:
        return text.startswith("{") and "error_message" in read_json(text)
    except ValueError:
        return False


def _tail(answer: Any) -> str:
    """The end of a text, of whatever length it is, as far as it comes."""
    end = b""
    with suppress(HTTPError):
        for part in answer.stream(_TAIL):
            end = (end + part)[-_TAIL:]
    return end.decode("utf-8", "replace")
