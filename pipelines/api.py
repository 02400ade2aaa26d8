"""Requests to the Kubeflow Pipelines API: bounded in time, never redirected, and every refusal one clear sentence."""

import urllib.request
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import kfp_server_api
import urllib3
from urllib3 import exceptions as http
from urllib3.util import Url, make_headers, parse_url

from pipelines.answers import read_json
from pipelines.connection import Connection
from pipelines.limits import within
from simipu_core.errors import SimipuError
from simipu_core.redaction import MASK, credentials, redacted

_LONGEST = 300
_HOW_TO_LOG_IN = "set KFP_TOKEN (bearer token), KFP_COOKIE (the session's cookie from a browser) or their _FILE forms"


class ApiError(SimipuError):
    """The server refused, or could not be asked.

    Attributes:
        status: HTTP status; None without an answer.
        transient: whether the same request may succeed later.
    """

    def __init__(self, message: str, status: int | None = None, transient: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.transient = transient


class Api(kfp_server_api.ApiClient):  # type: ignore[misc]
    """The SDK's generated REST client, with time-outs, the credential and plain errors on every request.

    Redirects are not followed: a credential must not travel to another address, and behind them are login pages.
    """

    def __init__(self, connection: Connection) -> None:
        settings = kfp_server_api.Configuration(host=connection.host)
        settings.retries = urllib3.Retry(
            total=None, connect=0, read=0, redirect=0, status=0, other=0, raise_on_redirect=False
        )
        settings.ssl_ca_cert = str(connection.ca_file) if connection.ca_file else None
        if proxy := _proxy(connection.host):
            settings.proxy = proxy._replace(auth=None).url
            settings.proxy_headers = make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else None
        super().__init__(settings)
        self._connection = connection

    def request(
        self,
        method: str,
        url: str,
        query_params: Any = None,
        headers: dict[str, str] | None = None,
        post_params: Any = None,
        body: Any = None,
        _preload_content: bool = True,
        _request_timeout: Any = None,
    ) -> Any:
        """Send one request.

        Raises:
            ApiError: there was no answer, it was a refusal, or it was not the API that answered.
        """
        asked = self._connection
        try:
            secret = asked.credential.headers()
        except SimipuError as error:  # its file may be just about to be written
            raise ApiError(str(error), transient=True) from None
        send = partial(
            super().request,
            method,
            url,
            query_params=query_params,
            headers={**(headers or {}), **secret},
            post_params=post_params,
            body=body,
            _preload_content=_preload_content,
            _request_timeout=_request_timeout or (asked.connect_timeout_s, asked.read_timeout_s),
        )
        try:
            answer = within(asked.longest_s, send)
        except TimeoutError:
            raise ApiError(
                f"{asked.host} does not answer in full within {asked.longest_s:g} s.", transient=True
            ) from None
        except kfp_server_api.ApiException as error:
            if not error.status:
                raise _tls(asked, str(error.reason)) from None
            raise _refused(asked, error, *secret.values()) from None
        except http.HTTPError as error:
            raise _unanswered(asked, error) from None
        if _preload_content:
            _check(asked, answer)
        return answer


def _check(asked: Connection, answer: Any) -> None:
    """Refuse what is no JSON object: the SDK would take it for one without any field."""
    if "json" not in (answer.getheader("content-type") or ""):
        raise _not_the_api(asked)
    try:
        known = read_json(answer.data)
    except ValueError as error:
        raise ApiError(f"{asked.host}: its answer is cut off or no JSON ({error}).", transient=True) from None
    if not isinstance(known, dict):
        raise ApiError(f"{asked.host} answers in a way this client does not know: with no JSON object.")


def _proxy(host: str) -> Url | None:
    """The proxy that the environment names for the address; never for this machine itself.

    Raises:
        SimipuError: what it names is no HTTP proxy.
    """
    parts = urlsplit(host)
    name = parts.hostname or ""
    if name in ("localhost", "::1") or name.startswith("127.") or urllib.request.proxy_bypass(name):
        return None
    given = urllib.request.getproxies().get(parts.scheme)
    if not given:
        return None
    try:
        proxy = parse_url(given if "://" in given else f"http://{given}")
    except http.LocationParseError:
        proxy = Url()
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise SimipuError(f"{parts.scheme}_proxy: it names no HTTP proxy; write it as http://proxy.example:3128.")
    return proxy


def _refused(asked: Connection, error: Any, *secrets: str) -> ApiError:
    """What the server says, as one sentence, without secrets that it may have repeated."""
    status = int(error.status)
    message = _message(error.body, secrets)
    detail = f": {message}" if message else ""
    if 300 <= status < 400:
        return _redirected(asked, str((error.headers or {}).get("Location", "")), status)
    if status == 401:
        return ApiError(f"{asked.host} asks who you are (401{detail}); {_renew(asked)}.", status)
    if status == 403:
        where = f"namespace {asked.namespace}" if asked.namespace else "no namespace given"
        return ApiError(
            f"{asked.host} does not allow this (403, {where}{detail}); check --namespace (your profile's) and that "
            f"{asked.credential.source} belongs to someone who may use it.",
            status,
        )
    if status == 429 or (status >= 500 and status != 501):
        return ApiError(f"{asked.host} is in trouble ({status}{detail}).", status, transient=True)
    return ApiError(f"{asked.host} refused ({status}{detail or f': {error.reason}'}).", status)


def _renew(asked: Connection) -> str:
    if asked.credential.kind == "none":
        return _HOW_TO_LOG_IN
    return f"{asked.credential.source} is wrong or has expired, put a new {asked.credential.kind} there"


def _redirected(asked: Connection, target: str, status: int) -> ApiError:
    host, there = urlsplit(asked.host), urlsplit(target)
    if there.scheme not in ("", host.scheme) and there.hostname == host.hostname:
        return ApiError(f"{asked.host} has moved to {there.scheme}://; give that address.", status)
    return ApiError(
        f"{asked.host} sends you to a login page ({status} to {target.split('?')[0] or 'nowhere'}); {_renew(asked)}.",
        status,
        transient=True,
    )


def _not_the_api(asked: Connection) -> ApiError:
    return ApiError(
        f"{asked.host} answers with a web page, not as Kubeflow Pipelines: it is a login page ({_renew(asked)}), or "
        "the address lacks its path, e.g. https://kubeflow.example.com/pipeline.",
        transient=True,
    )


def _message(body: Any, headers: Iterable[str] = ()) -> str:
    """The message in an answer: JSON of the API or of a gateway, or short text; web pages say nothing.

    Args:
        body: of the answer.
        headers: what is secret in these is masked, before long text is cut.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        data = read_json(text)
    except ValueError:
        data = None
    if isinstance(data, dict):
        inner = data["error"] if isinstance(data.get("error"), dict) else data
        text = str(inner.get("message") or inner.get("error") or inner.get("error_message") or "")
    elif "<" in text:
        text = ""
    for secret in (secret for header in headers for secret in credentials(header)):
        text = text.replace(secret, MASK)
    words = " ".join(redacted(text).split())
    return words if len(words) <= _LONGEST else words[:_LONGEST].rstrip() + " …"


def _unanswered(asked: Connection, error: http.HTTPError) -> ApiError:
    reason = error.reason if isinstance(error, http.MaxRetryError) and error.reason else error
    if isinstance(reason, http.SSLError):
        return _tls(asked, str(reason))
    if isinstance(reason, http.ProxyError):
        proxy = _proxy(asked.host)
        name = proxy.netloc if proxy else ""
        return ApiError(f"{asked.host}: the proxy {name} does not pass the request on.", transient=True)
    if isinstance(reason, http.NameResolutionError):
        return ApiError(f"{asked.host}: there is no such host; check --host or KFP_ENDPOINT.", transient=True)
    if isinstance(reason, http.NewConnectionError):
        return ApiError(f"{asked.host}: nothing listens there; check --host or KFP_ENDPOINT.", transient=True)
    if isinstance(reason, http.ConnectTimeoutError):
        return ApiError(
            f"{asked.host} cannot be reached within {asked.connect_timeout_s:g} s; check the address and the network.",
            transient=True,
        )
    if isinstance(reason, http.ReadTimeoutError):
        return ApiError(f"{asked.host} does not answer within {asked.read_timeout_s:g} s.", transient=True)
    return ApiError(f"{asked.host} broke the connection off.", transient=True)


def _tls(asked: Connection, reason: str) -> ApiError:
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return ApiError(f"{asked.host} does not speak TLS; if that is right, give the address with http://.")
    if "CERTIFICATE_VERIFY_FAILED" in reason or "Hostname mismatch" in reason:
        why = reason.split("certificate verify failed: ")[-1].split(" (_ssl")[0]
        return ApiError(
            f"{asked.host}: its certificate is not trusted ({why}); set KFP_CA_FILE to the file of the CA "
            "that signed it."
        )
    return ApiError(f"{asked.host}: TLS fails ({' '.join(reason.split())[:_LONGEST]}).")
