"""What a connection may cost before anybody reads its request: uvicorn's HTTP, with bounds.

uvicorn with httptools has none on the size of a request's head, on the time that it takes to come,
nor on connections that send nothing at all.
"""

import asyncio
import logging
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import metrics
from app.config import Settings
from app.logs import Sparse

logger = logging.getLogger(__name__)

PER_FIELD: Final = 4
"""Bytes of a header's line beside its name and value."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; `bounded` makes one with a deployment's limits."""

    head_bytes_max: int
    head_s: float
    connections_max: int
    sparse: Sparse

    _head: int | None = 0
    """Bytes of the request's head so far; None past it."""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] uvicorn's own type
        """Take a connection, if there is room for one more."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            metrics.REFUSED.labels("connections").inc()
            transport.abort()
            return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Read on; a head that grows beyond its bound ends the connection."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            self._start_timer()
            if self._head > self.head_bytes_max:
                self._refuse("its head is too large")

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        """A head has come whole: serve the request, or say that it is too large."""
        self._head = None
        self._stop_timer()
        fields = sum(len(name) + len(value) + PER_FIELD for name, value in self.headers)
        usual = self.app
        if len(self.url) + fields > self.head_bytes_max:
            self.app = too_large  # pyright: ignore[reportAttributeAccessIssue] ASGI, by another's type
        try:
            super().on_headers_complete()
        finally:
            self.app = usual

    def on_response_complete(self) -> None:
        """Uvicorn waits for the next request now, by its own timer, unless one has begun."""
        super().on_response_complete()
        if self._head is None:
            self._head = 0

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self.head_s, self._refuse, "its head did not come in time"
            )

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, why: str) -> None:
        if not self.transport.is_closing():
            metrics.REFUSED.labels("head").inc()
            self.sparse.info(f"connection closed: {why}")
            self.transport.abort()


async def too_large(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request whose head is over the limit."""
    body = {
        "type": "urn:mcpbroker:problem:head_too_large",
        "title": "The request's line and headers are too large",
        "status": 431,
        "code": "head_too_large",
    }
    metrics.REFUSED.labels("head").inc()
    answer = Response(
        orjson.dumps(body),
        status_code=431,
        media_type="application/problem+json",
        headers={"Connection": "close"},
    )
    await answer(scope, receive, send)


def bounded(settings: Settings, base: type[BoundedProtocol] = BoundedProtocol) -> Any:
    """The protocol with a deployment's limits; uvicorn makes one a connection."""
    limits = {
        "head_bytes_max": settings.head_bytes_max,
        "head_s": settings.head_s,
        "connections_max": settings.connections_max,
        "sparse": Sparse(logger, period_s=settings.refusals_period_s),
    }
    return type(base.__name__, (base,), limits)
