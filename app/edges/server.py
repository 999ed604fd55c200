"""The app, put together: one place makes every part of an app process."""

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import SystemRandom
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from app import assets, metrics
from app.audit.store import partitions
from app.catalog.cache import Catalog
from app.commands.reports import ReportBatcher
from app.commands.results import LeaseTimes
from app.commands.watch import CommandFeed
from app.config import Settings
from app.console import app as console
from app.edges import failures
from app.edges.auth.certificates import Certificates, TlsProtocol, server_context
from app.edges.auth.credentials import Credentials
from app.edges.auth.dpop import ALGORITHMS, Proofs
from app.edges.auth.refusals import Refusals
from app.edges.auth.scopes import SCOPES
from app.edges.auth.tokens import Verifier
from app.edges.connections import bounded
from app.edges.guard import METADATA, Guard
from app.edges.hosts import Doors
from app.edges.http import (
    audit,
    calls,
    dead_letters,
    decisions,
    holds,
    openapi,
    operator,
    results,
    saga_definitions,
    sagas,
    webhooks,
)
from app.edges.http.fast_call import FastCall
from app.edges.mcp.front import Front
from app.edges.parts import Parts
from app.edges.spans import HttpSpans
from app.edges.stops import Stops
from app.edges.streams import Streams
from app.intake.batches import IntakeBatcher
from app.intake.holds import Holds
from app.intake.prepare import Preparer
from app.intake.queues import Queues
from app.postgres import migrate, pooler, wakeups
from app.postgres.engine import AWAY, WRITES, Database, direct_of, open_database
from app.postgres.wakeups import Notifier
from app.supervision import Supervisor
from app.traces import tracing as traces

logger = logging.getLogger("app")

READY_S: Final = 5.0
"""For PostgreSQL to answer: who asks whether we are ready does not wait for longer."""


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncGenerator[Parts]:
    """Every part of an app process, running."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings, name="broker-app", hot_plans_kept=True)
        )
        notifier = Notifier(database.pool, coalesce_ms=settings.notify_coalesce_ms)
        refusals = Refusals(database.engine, period_s=settings.refusals_period_s)
        await stack.enter_async_context(refusals.running())
        catalog = Catalog(database.engine, kept_s=settings.catalog_kept_s)
        feed = CommandFeed(database.engine, poll_s=settings.poll_s)
        stops = Stops(notifier.stop)
        intake = IntakeBatcher(
            database.pool,
            notifier,
            batch_max=settings.intake_batch_max,
            queue_max=settings.intake_queue_max,
        )
        supervisor = Supervisor()
        stack.callback(supervisor.stop)
        holds = Holds(database.engine)
        _start(supervisor, database, notifier, feed, catalog, holds, stops)
        links = settings.trace_front == "link"
        tracing = await stack.enter_async_context(
            traces.running(settings, service="app", links_clients=links)
        )
        random = SystemRandom()
        reports = ReportBatcher(
            database.engine,
            database.pool,
            notifier,
            feed,
            catalog,
            leases=LeaseTimes(lease_s=settings.lease_s),
            random=random,
            batch_max=settings.intake_batch_max,
            queue_max=settings.intake_queue_max,
            traced=tracing is not None,
        )
        await stack.enter_async_context(intake.running())
        await stack.enter_async_context(reports.running())
        yield Parts(
            settings=settings,
            database=database,
            notifier=notifier,
            catalog=catalog,
            preparer=Preparer(catalog, settings, refused=refusals.call),
            queues=Queues(database.engine),
            holds=holds,
            intake=intake,
            feed=feed,
            reports=reports,
            supervisor=supervisor,
            stops=stops,
            streams=Streams(
                total_max=settings.listen_streams_max,
                user_max=settings.listen_streams_per_user_max,
            ),
            credentials=Credentials(
                verifier=Verifier(settings),
                certificates=Certificates(settings),
                proofs=Proofs(settings, database.pool),
            ),
            refusals=refusals,
            random=random,
            tracing=tracing,
        )


def _start(
    supervisor: Supervisor,
    database: Database,
    notifier: Notifier,
    feed: CommandFeed,
    catalog: Catalog,
    holds: Holds,
    stops: Stops,
) -> None:
    """The loops in the background of an app process."""
    handlers: dict[str, Callable[[str], None]] = {
        wakeups.COMMANDS: feed.notified,
        wakeups.MOVES: feed.notified_of_moves,
        wakeups.CATALOG: lambda _: catalog.forget(),
        wakeups.HOLDS: lambda _: holds.forget(),
        wakeups.STOPS: stops.notified,
    }
    supervisor.start(
        "listen", lambda: wakeups.listen(database.direct_dsn, handlers, name="broker-app")
    )
    supervisor.start("notifier", notifier.run)
    supervisor.start("feed", feed.run)
    supervisor.start("partitions", lambda: partitions.keep(database.pool))


def build(settings: Settings, broker: Parts) -> ASGIApp:
    """The ASGI app of a running broker."""
    front = Front(broker)
    server = front.server()
    mcp_app = front.app(server)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with server.session_manager.run():
            yield

    app = FastAPI(
        title="MCP broker",
        version=assets.version(),
        lifespan=lifespan,
        docs_url=None,
        redirect_slashes=False,  # it sends callers to whatever host their Host header names
    )
    endpoint = front.endpoint(mcp_app)
    pages = console.build(broker)
    guard = Guard(FastCall(app, endpoint, broker), broker, Doors.of(settings), pages)
    for one in (app, mcp_app):  # each answers for its own errors
        failures.install(one, metadata_url=guard.metadata_url, on_refused=guard.refused)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz(broker), methods=["GET"])
    for path in (METADATA, f"{METADATA}/mcp"):
        app.add_api_route(path, metadata(settings), methods=["GET"], include_in_schema=False)
    app.include_router(calls.router(broker))
    app.include_router(results.router(broker))
    app.include_router(operator.router(broker))
    app.include_router(holds.router(broker))
    app.include_router(decisions.router(broker))
    app.include_router(dead_letters.router(broker))
    app.include_router(audit.router(broker))
    app.include_router(saga_definitions.router(broker))
    app.include_router(sagas.router(broker))
    app.include_router(webhooks.router(broker))
    openapi.install(app)
    return guard if broker.tracing is None else HttpSpans(guard, broker.tracing)


async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


def readyz(broker: Parts) -> Callable[[], Awaitable[Response]]:
    """Whether calls can be accepted: Postgres answers, writes, and has our schema or a later one.

    A later one is what the database has while replicas are replaced, after its migration.
    """
    head, older = migrate.head(), migrate.older()

    async def ready() -> Response:
        try:
            async with asyncio.timeout(READY_S), broker.database.engine.connect() as conn:
                at = await migrate.current(conn)
                writes = await conn.scalar(WRITES)
        except AWAY as error:
            body = {"status": "unready", "postgres": f"unreachable: {type(error).__name__}"}
            return JSONResponse(body, status_code=503)
        if not writes:
            body = {"status": "unready", "postgres": "takes no writes: a standby, or read-only"}
            return JSONResponse(body, status_code=503)
        if ended := broker.supervisor.ended_lately():
            body = {"status": "unready", "ended": ", ".join(ended)}
            return JSONResponse(body, status_code=503)
        ok = at is not None and at not in older
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
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
            "resource_name": "MCP broker",
        }

    return document


def uvicorn_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How the app is served: plain, behind whatever ends TLS, or with TLS of its own."""
    tls: dict[str, Any] = {"http": bounded(settings)}
    if settings.tls_certfile is not None:
        context = server_context(settings)
        tls = {"http": bounded(settings, TlsProtocol), "ssl_context_factory": lambda *_: context}
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        # Longer than clients and load balancers keep an idle connection, so that it is theirs to
        # close: a request that crosses our closing is lost without an answer.
        timeout_keep_alive=75,
        server_header=False,
        ws="none",
        # The peer's address decides whose Client-Cert header is believed: no header changes it.
        proxy_headers=False,
        **tls,
    )


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; calls in acceptance are finished first.

    Raises:
        PoolerError: what is between us and PostgreSQL cannot be used so.
    """
    url, direct = settings.database_url.get_secret_value(), direct_of(settings)
    known = await pooler.known(url, direct_url=direct)
    async with open_broker(settings) as broker:
        if not known:
            broker.supervisor.start("pooler", lambda: pooler.find_out(url, direct_url=direct))
        config = uvicorn_config(settings, build(settings, broker))
        # What is there now (modules, models, schemas) stays to the end, and a full collection walks
        # all of it: a sixth of the processor time of an MCP call (docs/PERFORMANCE.md).
        gc.collect()
        gc.freeze()
        options = {
            "host": settings.host,
            "port": settings.port,
            "hosts_served": settings.hosts_served,
            "origins_served": settings.origins_served,
        }
        logger.info("app listens", extra=options)
        with metrics.served(
            settings.metrics_host,
            settings.metrics_port,
            natively=settings.metrics_native,
            version=assets.version(),
            schema=migrate.head(),
        ):
            await uvicorn.Server(config).serve()
