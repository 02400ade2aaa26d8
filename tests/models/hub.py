"""A Hugging Face hub on this machine: what its client asks for a file, and no more."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class HubServer:
    """Serves `files`, (repository, name) → content, each in the one revision `REVISION`."""

    REVISION = "0123456789" * 4

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[tuple[str, str], bytes] = {}
        self.announced: dict[tuple[str, str], str] = {}
        """Digests that differ from the content's."""
        self.downloads = 0

    def address(self, repository: str, name: str) -> str:
        """Of the content now."""
        sha256 = hashlib.sha256(self.files[repository, name]).hexdigest()
        return f"hf://{repository}@{self.REVISION}/{name}#{sha256}"


@contextmanager
def serve() -> Iterator[HubServer]:
    """A hub, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            if content := self._answer():
                hub.downloads += 1
                self.wfile.write(content)

        def _answer(self) -> bytes | None:
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            content = hub.files.get((repository, name)) if revision in ("main", hub.REVISION) else None
            self.send_response(404 if content is None else 200)
            if content is not None:
                announced = hub.announced.get((repository, name)) or hashlib.sha256(content).hexdigest()
                self.send_header("X-Repo-Commit", hub.REVISION)
                self.send_header("X-Linked-Etag", f'"{announced}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("ETag", f'"{announced}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = HubServer(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
