"""A JSON server of the test's own, on a free port, for what an adapter or a source talks to."""

import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Answer = Callable[[str, str, Any, str | None], tuple[int, Any]]
"""(method, target, body, Authorization header) -> (status, body)."""
Hear = Callable[[str, str | None], None]
"""(target, traceparent header)."""


@contextmanager
def serving(
    answer: Answer, tls: ssl.SSLContext | None = None, *, hear: Hear | None = None
) -> Generator[str]:
    """Serve inside the block; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            self._answer("POST", self._body())

        def do_PATCH(self) -> None:
            self._answer("PATCH", self._body())

        def _body(self) -> Any:
            length = int(self.headers.get("content-length") or 0)
            return orjson.loads(self.rfile.read(length) or b"{}")

        def _answer(self, method: str, body: Any) -> None:
            if hear is not None:
                hear(self.path, self.headers.get("traceparent"))
            status, said = answer(method, self.path, body, self.headers.get("authorization"))
            data = orjson.dumps(said)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
