"""An HTTP proxy that breaks what it is told to, in front of a real S3 server."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>"
_DROPPED = {"connection", "expect", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to the next requests whose first line holds `match`, and which have a header."""

    kind: Literal["error", "cut", "drop", "hang", "flip", "slow"]
    """`error` answers with `status` and `code` · `cut` ends the connection within the body · `drop` ends it before the
    answer, although the server did what was asked · `hang` never sends the body · `flip` changes its first byte ·
    `slow` waits for a second, and nothing else."""
    match: str = ""
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    header: str = ""


@dataclass
class Proxy:
    """Passes requests on, apart from its faults."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """First lines of all requests, ``GET /bucket/key``."""
    watch: Callable[[str], object] = str
    """Told of each request before it is passed on."""
    chance: Callable[[str], Fault | None] = field(default=lambda _: None)
    """Faults besides."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: str, headers: Mapping[str, str]) -> Fault | None:
        """Note a request; what is to happen to it."""
        with self._lock:
            self.requests.append(request)
            meant = (
                each for each in self.faults if each.match in request and (not each.header or each.header in headers)
            )
            fault = next((fault for fault in meant if fault.times), None)
            if fault:
                fault.times -= 1
        self.watch(request)
        return fault or self.chance(request)


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """Serve a proxy in front of a server's address."""
    host = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            fault = made.take(f"{self.command} {self.path}", dict(self.headers))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault and fault.kind == "slow":
                time.sleep(1)
                fault = None
            if fault and fault.kind == "error":
                self.answer(fault.status, [], _ERROR.format(code=fault.code).encode())
                return
            with closing(http.client.HTTPConnection(host)) as upstream:
                self.pass_on(upstream, body, fault)

        def pass_on(self, upstream: http.client.HTTPConnection, body: bytes, fault: Fault | None) -> None:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _DROPPED:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body)
            got = upstream.getresponse()
            if fault and fault.kind == "drop":
                self.close_connection = True
                return
            self.answer(got.status, got.getheaders(), got.read(), fault, got.getheader("Content-Length"))

        def answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            fault: Fault | None = None,
            length: str | None = None,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _DROPPED:
                    self.send_header(name, value)
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", length or "0" if is_head else str(len(body)))
            self.end_headers()
            if fault:
                self.wfile.flush()
                if fault.kind == "hang":
                    self.rfile.read(1)  # until the client has had enough
                if fault.kind == "cut":
                    self.wfile.write(body[: len(body) // 2])
                if fault.kind == "flip":
                    self.wfile.write(bytes([body[0] ^ 255]) + body[1:])
                self.close_connection = True
                return
            self.wfile.write(b"" if is_head else body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that went away are no news."""

    server = Server(("127.0.0.1", 0), Handler)
    made = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
