"""Metrics as a process gives them to Prometheus, whatever it counts."""

from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import start_http_server


@contextmanager
def served(host: str, port: int | None) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        yield
        return
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
