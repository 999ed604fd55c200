"""Metrics as a process gives them to Prometheus, whatever it counts."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import REGISTRY, start_http_server

from app import families


@contextmanager
def served(host: str, port: int | None, *, natively: bool = False) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port.

    `natively` lets a scraper have protobuf, where it asks for it: histograms are native ones too
    then.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        yield
        return
    server, thread = start_http_server(port, host)
    try:
        texts = server.get_app()
        if natively and texts is not None:
            server.set_app(_either(texts))
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _either(texts: WSGIApplication) -> WSGIApplication:
    """Protobuf to who names it as what it accepts, else what it was."""

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        accepted = str(environ.get("HTTP_ACCEPT", "")).split(",")
        names = {one.partition(";")[0].strip() for one in accepted}
        if environ["REQUEST_METHOD"] != "GET" or families.MEDIA_TYPE not in names:
            return texts(environ, start)
        start("200 OK", [("Content-Type", families.CONTENT_TYPE)])
        return [families.encoded(REGISTRY)]

    return app
