"""The app, put together: one place makes every part of an app process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.catalog import Catalog
from app.config import Settings
from app.db import migrate, wakeups
from app.db.engine import open_database
from app.db.wakeups import Notifier
from app.edges import (
    dead_letters_api,
    failures,
    http_api,
    operator_api,
    results_api,
    saga_api,
)
from app.edges.broker import Broker
from app.edges.identity import SCOPES, Verifier, bearer
from app.edges.mcp_front import Front
from app.edges.stream import Hub
from app.errors import BrokerError, OversizeError
from app.intake import Intake

logger = logging.getLogger("app")

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})
METADATA: Final = "/.well-known/oauth-protected-resource"
RESULT_SLACK: Final = 64 << 10
"""Bytes that a result's envelope may have beyond the result."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Middleware: the body's limit and the bearer token, before anything reads the request."""

    app: ASGIApp
    settings: Settings
    verifier: Verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request with its identity in the scope, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        # White space around a value is no part of it (RFC 9110, 5.5), and httptools leaves it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        try:
            if path not in PUBLIC and not path.startswith(METADATA):
                token = bearer(HTTPConnection(scope))
                scope["broker.identity"] = await self.verifier.verify(token)
            limited = self._limited(scope, receive)
            await self.app(scope, limited, send)
        except BrokerError as error:
            url = f"{self.settings.public_url.rstrip('/')}{METADATA}/mcp"
            await failures.problem(error, metadata_url=url)(scope, receive, send)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """The body, cut off with an error at its limit, also where no length was announced."""
        limit = self.settings.body_bytes_max
        if scope["path"].startswith("/results/"):
            limit = self.settings.result_bytes_max + RESULT_SLACK
        announced = HTTPConnection(scope).headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise OversizeError(f"The body has {announced} bytes; at most {limit} are taken.")
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise OversizeError(f"The body is over {limit} bytes.")
            return message

        return counted


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncGenerator[Broker]:
    """Every part of an app process, running."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, name="broker-app"))
        notifier = Notifier(database.pool, coalesce_ms=settings.notify_coalesce_ms)
        catalog = Catalog(database.engine, settings)
        hub = Hub(database.engine, poll_s=settings.poll_s)
        intake = Intake(
            database.pool,
            notifier,
            batch_max=settings.intake_batch_max,
            queue_max=settings.intake_queue_max,
        )
        handlers: dict[str, Callable[[str], None]] = {
            wakeups.COMMANDS: hub.notified,
            wakeups.CATALOG: lambda _: catalog.forget(),
        }
        helpers: list[Awaitable[Any]] = [
            wakeups.listen(database.dsn, handlers, name="broker-app"),
            notifier.run(),
            hub.run(),
        ]
        tasks = [asyncio.ensure_future(helper) for helper in helpers]
        stack.callback(lambda: [task.cancel() for task in tasks])
        await stack.enter_async_context(intake.running())
        yield Broker(
            settings=settings,
            database=database,
            notifier=notifier,
            catalog=catalog,
            intake=intake,
            hub=hub,
            verifier=Verifier(settings),
            random=SystemRandom(),
        )


def build(settings: Settings, broker: Broker) -> ASGIApp:
    """The ASGI app of a running broker."""
    front = Front(broker)
    server = front.server()
    mcp_app = front.app(server)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with server.session_manager.run():
            yield

    app = FastAPI(title="MCP broker", version="0.1.0", lifespan=lifespan, docs_url=None)
    failures.install(app, metadata_url=f"{settings.public_url.rstrip('/')}{METADATA}/mcp")
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz(broker), methods=["GET"])
    for path in (METADATA, f"{METADATA}/mcp"):
        app.add_api_route(path, metadata(settings), methods=["GET"], include_in_schema=False)
    app.include_router(http_api.router(broker))
    app.include_router(results_api.router(broker))
    app.include_router(operator_api.router(broker))
    app.include_router(dead_letters_api.router(broker))
    app.include_router(saga_api.router(broker))
    app.mount("/", mcp_app)
    return Guard(app, settings, broker.verifier)


async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def readyz(broker: Broker) -> Callable[[], Awaitable[Response]]:
    """Whether calls can be accepted: Postgres answers and is at the schema of this code."""
    head = migrate.head()

    async def ready() -> Response:
        try:
            async with broker.database.engine.connect() as conn:
                at = await migrate.current(conn)
        except (DBAPIError, OSError, TimeoutError) as error:
            body = {"status": "unready", "postgres": f"unreachable: {type(error).__name__}"}
            return JSONResponse(body, status_code=503)
        ok = at == head
        body = {"status": "ready" if ok else "unready", "schema": at, "wanted": head}
        return JSONResponse(body, status_code=200 if ok else 503)

    return ready


def metadata(settings: Settings) -> Callable[[], Awaitable[dict[str, Any]]]:
    """The protected resource's metadata (RFC 9728)."""

    async def document() -> dict[str, Any]:
        return {
            "resource": settings.mcp_url,
            "authorization_servers": [issuer.issuer for issuer in settings.issuers],
            "scopes_supported": list(SCOPES),
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP broker",
        }

    return document


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; calls in acceptance are finished first."""
    async with open_broker(settings) as broker:
        config = uvicorn.Config(
            build(settings, broker),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        logger.info("app listens", extra={"host": settings.host, "port": settings.port})
        await uvicorn.Server(config).serve()
