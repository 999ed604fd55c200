"""Other durable queues on PostgreSQL, each with its own schema, enqueuing the same bytes."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

Enqueue = Callable[[], Awaitable[Any]]
TEXT: Final = "x" * 200
POOL_MAX: Final = 20


@asynccontextmanager
async def dbos(dsn: str) -> AsyncGenerator[Enqueue]:
    """DBOS: a workflow enqueued by its client."""
    from dbos import DBOSClient

    argv = [str(Path(sys.executable).with_name("dbos")), "migrate", "-s", dsn]
    migrate = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    assert await migrate.wait() == 0
    client = DBOSClient(
        system_database_url=dsn.replace("postgresql://", "postgresql+psycopg://"),
        system_database_pool_size=POOL_MAX,
    )
    try:
        yield lambda: client.enqueue_async(
            {"workflow_name": "echo", "queue_name": "bench"}, {"text": TEXT}
        )
    finally:
        client.destroy()


@asynccontextmanager
async def procrastinate(dsn: str) -> AsyncGenerator[Enqueue]:
    """Procrastinate: a deferred job."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=1, max_size=POOL_MAX))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        task = app.configure_task("echo", queue="bench")
        yield lambda: task.defer_async(text=TEXT)


@asynccontextmanager
async def pgqueuer(dsn: str) -> AsyncGenerator[Enqueue]:
    """PgQueuer: an enqueued job."""
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.queries import Queries

    async with asyncpg.create_pool(dsn, min_size=1, max_size=POOL_MAX) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        yield lambda: queries.enqueue("echo", TEXT.encode())


ALL: Final = {"DBOS": dbos, "procrastinate": procrastinate, "PgQueuer": pgqueuer}


Start = Callable[[str], Awaitable[Any]]
"""Enqueues a job of this name."""


@asynccontextmanager
async def procrastinate_worker(dsn: str, heard: Callable[[str], None]) -> AsyncGenerator[Start]:
    """Procrastinate with a worker in this process, which tells of each job that it starts."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=1, max_size=POOL_MAX))

    @app.task(name="start", queue="bench")
    async def start(name: str, text: str) -> None:  # noqa: ARG001 the same bytes as everybody's
        heard(name)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(queues=["bench"], concurrency=10, install_signal_handlers=False)
        )
        try:
            yield lambda name: start.defer_async(name=name, text=TEXT)
        finally:
            await stopped(worker)


@asynccontextmanager
async def pgqueuer_worker(dsn: str, heard: Callable[[str], None]) -> AsyncGenerator[Start]:
    """PgQueuer with a worker in this process, which tells of each job that it starts."""
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
    from pgqueuer.models import Job
    from pgqueuer.queries import Queries

    conn = await asyncpg.connect(dsn)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=POOL_MAX) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        queuer = PgQueuer(AsyncpgDriver(conn))

        @queuer.entrypoint("start")
        async def start(job: Job) -> None:
            heard((job.payload or b"").decode().partition(" ")[0])

        assert start is not None
        worker = asyncio.create_task(queuer.run())
        try:
            yield lambda name: queries.enqueue("start", f"{name} {TEXT}".encode())
        finally:
            await stopped(worker)
            await conn.close()


async def stopped(worker: "asyncio.Task[None]") -> None:
    """End a peer's worker."""
    worker.cancel()
    await asyncio.wait([worker], timeout=10)


WORKERS: Final = {"procrastinate": procrastinate_worker, "PgQueuer": pgqueuer_worker}
