"""The real servers under the benchmarks: databases, brokers, relays and load by hand."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer
from pydantic import SecretStr

from app.audit import keys
from app.config import Settings
from app.contract import COMMANDS
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.trust import Issuer
from devstack.postgres import EmbeddedPostgres, free_port
from devstack.stack import AppProcess, Dsns, relay_process
from devstack.tokens import ISSUER, DevIssuer
from tests.support import stack

ADA: Final = Identity(tenant_id="demo", user_id="ada", client_id="ada", scopes=frozenset({"tools"}))
EVE: Final = Identity(
    tenant_id="other", user_id="eve", client_id="eve", scopes=frozenset({"tools"})
)
ADAPTER: Final = Identity(
    tenant_id="adapters", user_id="eda", client_id="eda", scopes=frozenset({"results:write"})
)
UNBOUNDED: Final = 1_000_000_000


class Servers:
    """PostgreSQL and Kafka, started when first asked for; one of each for all benchmarks."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.repeats = 1 if quick else 3
        self._opened = AsyncExitStack()
        self._postgres: str | None = None
        self._kafka: str | None = None
        self.postgres_pid: int | None = None
        self.home = Path(tempfile.mkdtemp(prefix="mcp-broker-bench-"))
        self.audience = "http://127.0.0.1/mcp"
        self.issuer = DevIssuer(self.home, audience=self.audience)
        self.seal_key = self.home / "seal.pem"
        keys.generate(self.seal_key, self.home / "seal.pub.pem")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    def pick(self, full: int, quick: int) -> int:
        """A size: the measured one, or the smoke test's."""
        return quick if self.quick else full

    async def postgres(self) -> str:
        """The superuser's address of the server, with a template database on it."""
        if self._postgres is None:
            given = os.environ.get("DATABASE_URL")
            if given is None:
                # The shipped defaults, but for room for 256 connections of pgbench.
                server = EmbeddedPostgres(settings={"max_connections": "400"})
                await asyncio.to_thread(server.start)
                self._opened.callback(server.stop)
                given, self.postgres_pid = server.dsn, server.pid
            self._postgres = given
            await stack.make_template(self._postgres)
        return self._postgres

    async def kafka(self) -> str:
        """A Kafka broker's address."""
        if self._kafka is None:
            running = stack.kafka_bootstrap()
            self._kafka = await asyncio.to_thread(running.__enter__)
            self._opened.callback(running.__exit__, None, None, None)
        return self._kafka

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[Dsns]:
        """A migrated database whose tenants and tools have no bounds."""
        superuser = await self.postgres()
        made = await stack.clone(superuser)
        try:
            await execute(
                made.owner,
                f"UPDATE tenants SET in_flight_max = {UNBOUNDED}, queued_max = {UNBOUNDED};"
                f"UPDATE tools SET in_flight_max = {UNBOUNDED}",
            )
            yield made
        finally:
            await stack.drop(superuser, made)

    def settings(self, dsn: str, **changes: object) -> Settings:
        """The shipped settings on these servers."""
        trusted = Issuer(
            issuer=ISSUER,
            audience=self.audience,
            jwks_file=self.issuer.jwks,
            algorithms=("EdDSA",),
        )
        values: dict[str, object] = {"database_url": SecretStr(dsn), "issuers": (trusted,)}
        if self._kafka is not None:
            values["kafka_bootstrap"] = self._kafka
        return Settings.model_validate(values | changes)

    @asynccontextmanager
    async def broker(self, dsn: str, **changes: object) -> AsyncGenerator[Parts]:
        """An app's parts in this process: the library."""
        async with open_broker(self.settings(dsn, **changes)) as made:
            yield made

    @asynccontextmanager
    async def app(self, dsn: str, **env: str) -> AsyncGenerator[AppProcess]:
        """One app process, one worker."""
        whole = {
            "MCP_BROKER_DATABASE_URL": dsn,
            "MCP_BROKER_ISSUERS": self.issuer.setting(),
            "MCP_BROKER_PUBLIC_URL": self.audience.removesuffix("/mcp"),
        }
        port = free_port()
        app = AppProcess(home=self.home, env=whole | env, port=port, name=f"app-{port}")
        await asyncio.to_thread(app.start)
        try:
            yield app
        finally:
            await asyncio.to_thread(app.process.stop)

    @asynccontextmanager
    async def relay(self, dsn: str, *, name: str, **env: str) -> AsyncGenerator[int]:
        """One relay process; gives its pid."""
        whole = {
            "MCP_BROKER_DATABASE_URL": dsn,
            "MCP_BROKER_KAFKA_BOOTSTRAP": await self.kafka(),
            "MCP_BROKER_DISPATCH_WINDOW": str(UNBOUNDED),
            "MCP_BROKER_SEAL_KEYS": orjson.dumps([str(self.seal_key)]).decode(),
        }
        process = relay_process(home=self.home, env=whole | env, name=name)
        process.start()
        try:
            yield process.pid
        finally:
            await asyncio.to_thread(process.stop)

    def token(self) -> str:
        """A caller's bearer token."""
        return self.issuer.token(tenant="demo", user="ada", scopes=["tools"])


@asynccontextmanager
async def consumer(bootstrap: str) -> AsyncGenerator[AIOKafkaConsumer]:
    """A consumer of the commands topic, at its end."""
    made = AIOKafkaConsumer(
        COMMANDS,
        bootstrap_servers=bootstrap,
        auto_offset_reset="latest",
        fetch_max_wait_ms=100,
    )
    await made.start()
    try:
        await made.seek_to_end()
        yield made
    finally:
        await made.stop()


async def execute(dsn: str, statement: str) -> None:
    """Statements without parameters, as the superuser."""
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


async def fetch(dsn: str, query: str, *values: Any) -> list[asyncpg.Record]:
    """Look at the tables, as the superuser."""
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetch(query, *values)
    finally:
        await conn.close()


def echo(key: object, **more: Any) -> CallRequest:
    """A call of 200 bytes of arguments."""
    return CallRequest(
        tool="probe", method="echo", args={"text": "x" * 200}, idempotency_key=str(key), **more
    )


# As many commands as wanted, as intake would have left them, in a few seconds.
FILL: Final = """
    WITH made AS (
        INSERT INTO commands (id, tenant_id, user_id, tool, method, args, idempotency_key,
                              key_source, fingerprint, ordering_key, ordering, key_seq, held,
                              priority, deadline_at, state, created_at, finished_at)
        SELECT uuidv7(), {tenant}, 'ada', 'probe', 'echo',
               jsonb_build_object('text', repeat('x', 200)), 'fill-' || {tag} || n, 'body',
               sha256(n::text::bytea), {key}, CASE WHEN {key} IS NOT NULL THEN 'completion' END,
               CASE WHEN {key} IS NOT NULL THEN {seq} END, {held}, {priority},
               now() + interval '1 day', '{state}', now(),
               CASE WHEN '{state}' = 'succeeded' THEN now() END
          FROM generate_series(1, {count}) AS n
        RETURNING id, tenant_id, tool, method, priority, state, held
    )
    INSERT INTO outbox (tenant_id, kind, topic, key, command_id, attempt, tool, method, priority,
                        status)
    SELECT tenant_id, 'command', 'mcp.commands', tenant_id || ':' || id, id, 1, tool, method,
           priority, CASE WHEN held THEN 'held' ELSE 'ready' END
      FROM made
     WHERE state = 'queued'
"""


async def fill(
    dsn: str,
    count: int,
    *,
    tenant: str = "'demo'",
    key: str = "CAST(NULL AS text)",
    seq: str = "n",
    held: bool = False,
    priority: int = 1,
    state: str = "queued",
    tag: str = "",
) -> None:
    """Put commands into the tables by hand; `tenant`, `key` and `seq` are SQL over n."""
    statement = FILL.format(
        count=count,
        tenant=tenant,
        key=key,
        seq=seq,
        held=str(held).lower(),
        priority=priority,
        state=state,
        tag=f"'{tag}'",
    )
    await execute(dsn, statement)


async def settle(dsn: str) -> None:
    """Let the planner and the visibility map know what was filled in, as autovacuum would."""
    await execute(dsn, "VACUUM ANALYZE")


END_DISPATCHED: Final = """
    UPDATE commands SET state = 'succeeded', finished_at = now() WHERE state = 'dispatched'
"""

# Without a wait for the relay, which locks the same rows in an order of its own.
END: Final = """
    UPDATE commands
       SET state = 'succeeded', finished_at = now(), held = false
     WHERE id IN (SELECT id FROM commands
                   WHERE id = ANY ($1::uuid[]) AND state IN ('queued', 'dispatched', 'running')
                     FOR UPDATE SKIP LOCKED)
    RETURNING id
"""


async def end_at_once(conn: asyncpg.Connection, ids: set[UUID]) -> set[UUID]:
    """Stand in for adapters that are infinitely fast; returns those that somebody held."""
    return ids - {row["id"] for row in await conn.fetch(END, ids)}


def environment() -> str:
    """What the figures were measured on, in a line."""
    return f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start"
