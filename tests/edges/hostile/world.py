"""The app as a process, and what its routes are about: commands and sagas in every state."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import uuid_utils.compat as uuid_utils
from pydantic import SecretStr

from app.catalog.policy import ToolPolicy
from app.commands import results
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.intake.prepare import CallRequest
from app.sagas import registry
from app.sagas.parse import parse
from devstack.postgres import free_port
from devstack.stack import AppProcess, Dsns
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE, settings_of
from tests.edges.hostile.wire import Client, client
from tests.edges.mcp.conftest import offer
from tests.sagas.lab import Lab, open_lab
from tests.support.calls import ADA, accept, claim, echo, finish
from tests.support.calls import ADAPTER as ADAPTERS
from tests.support.served import ADAPTER, OPERATOR

BOUND_S: Final = 10
"""In which everything is answered, on a busy machine too."""
TOOLS: Final = Path(__file__).parent.parent / "mcp" / "tools.yml"
NEVER: Final = {"code": "no", "message": "no", "retryable": False}

ROWS: Final = """
    SELECT id::text, md5((to_jsonb(commands) - 'reports_rejected')::text) AS row
      FROM commands
     WHERE tenant_id = 'demo' AND created_at >= $1
     UNION ALL
    SELECT 'definition ' || name || ' ' || version, digest::text
      FROM saga_definitions
     WHERE registered_at >= $1
     UNION ALL
    SELECT id::text, md5(to_jsonb(webhook_endpoints)::text)
      FROM webhook_endpoints
     WHERE tenant_id = 'demo' AND created_at >= $1
     UNION ALL
    SELECT id::text, md5(to_jsonb(holds)::text)
      FROM holds
     WHERE tenant_id = 'demo' AND placed_at >= $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a hostile sender meets, and who looks at what came of it."""

    http: Client
    other: Client
    broker: Parts
    lab: Lab
    dsns: Dsns
    owner: asyncpg.Pool

    async def now(self) -> datetime:
        """The database's time."""
        now = await self.owner.fetchval("SELECT clock_timestamp()")
        assert isinstance(now, datetime)
        return now

    async def rows(self, since: datetime) -> Mapping[str, str]:
        """A digest of each command, definition and hold that tenant demo has made since."""
        return {row["id"]: row["row"] for row in await self.owner.fetch(ROWS, since)}

    async def neighbour(self, text: str) -> None:
        """Another tenant's ordinary call is accepted, and found again."""
        body = {"tool": "probe", "method": "echo", "args": {"text": text}}
        async with asyncio.timeout(BOUND_S):
            answer = await self.other.post("/mcp/tools/call", body, prefer="respond-async")
            assert answer.status == 202, answer.text
            found = await self.other.get(f"/commands/{answer.json()['command_id']}")
        assert found["state"] == "queued"

    async def asked(self, query: str, *values: Any) -> Any:
        """One value, read by the owner."""
        return await self.owner.fetchval(query, *values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The app, and the parts of another to make things with."""

    app: AppProcess
    issuer: DevIssuer
    broker: Parts
    lab: Lab
    dsns: Dsns


EVENTS: Final[dict[str, Any]] = {
    "mcp_events": True,
    "webhook_keys": (SecretStr("the key of a hostile world, 32 bytes"),),
}
"""What makes MCP's events be served."""


@asynccontextmanager
async def serve(home: Path, dsns: Dsns, issuer: DevIssuer) -> AsyncGenerator[Served]:
    """Serve inside the block."""
    await offer(dsns.owner, TOOLS)
    owner = await asyncpg.connect(dsns.owner)
    await owner.execute("UPDATE tenants SET in_flight_max = 1000000, queued_max = 1000000")
    await owner.close()
    env = {
        "MCP_BROKER_DATABASE_URL": dsns.app,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        "MCP_BROKER_TASK_AFTER_S": "0",
        "MCP_BROKER_INLINE_WAIT_S": "0.01",
        "MCP_BROKER_HEARTBEAT_S": "0.1",
        "MCP_BROKER_WEBHOOK_KEYS": '["the key of a hostile world, 32 bytes"]',
        "MCP_BROKER_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
        "MCP_BROKER_WEBHOOK_ENDPOINTS_MAX": "1000000",
        "MCP_BROKER_MCP_EVENTS": "true",
    }
    app = AppProcess(home=home, env=env, port=free_port(), name="app")
    await asyncio.to_thread(app.start)

    try:
        async with (
            open_broker(settings_of(dsns.app, issuer, **EVENTS)) as broker,
            open_lab(broker, dsns, settings_of(dsns.relay, issuer)) as lab,
        ):
            await registry.register(broker.database.engine, broker.catalog, ADA, parse(KNOWN))
            yield Served(app=app, issuer=issuer, broker=broker, lab=lab, dsns=dsns)
    finally:
        await asyncio.to_thread(app.process.stop)


@asynccontextmanager
async def calling(served: Served) -> AsyncGenerator[World]:
    """The callers of one test."""

    issuer, port = served.issuer, served.app.port
    token = issuer.token(tenant="demo", user="ada", scopes=(*OPERATOR, *ADAPTER))
    neighbours = issuer.token(tenant="other", user="eve", scopes=("tools",))
    async with (
        client(port, token) as http,
        client(port, neighbours) as other,
        asyncpg.create_pool(served.dsns.owner, min_size=1, max_size=4) as owner,
    ):
        yield World(
            http=http,
            other=other,
            broker=served.broker,
            lab=served.lab,
            dsns=served.dsns,
            owner=owner,
        )


Subject = Callable[[World], Awaitable[UUID]]
"""Makes what a request is about."""


async def queued(world: World) -> UUID:
    """A command that waits."""
    return (await accept(world.broker, echo())).written.id


async def running(world: World) -> UUID:
    """A command that an adapter has claimed."""
    one = await queued(world)
    assert (await claim(world.broker, one)).proceed
    return one


async def done(world: World) -> UUID:
    """A command that has ended."""
    one = await queued(world)
    await finish(world.broker, one, result={"text": "x"})
    return one


async def dead(world: World) -> UUID:
    """A dead letter."""
    one = await queued(world)
    await results.reject(
        world.broker.database.engine,
        adapter=ADAPTERS,
        policy=ToolPolicy(),
        command_id=one,
        attempt=1,
        reason="no rule",
    )
    return one


async def doubtful(world: World) -> UUID:
    """A dead letter of which nobody knows what it did."""
    one = await dead(world)
    query = "UPDATE commands SET outcome_unknown = true WHERE id = $1"
    await world.owner.execute(query, one)
    return one


ENDPOINT: Final = """
    INSERT INTO webhook_endpoints (id, tenant_id, url, kinds, secret, created_by)
    VALUES ($1, 'demo', 'https://127.0.0.1:9/', '{command.ended}', '', 'ada')
"""
DELIVERY: Final = """
    INSERT INTO webhook_deliveries
           (id, tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data)
    VALUES ($1, 'demo', $1, 'command.ended', $1, '1', now(), '{}')
"""


async def webhook(world: World) -> UUID:
    """An endpoint."""
    made = uuid4()
    await world.owner.execute(ENDPOINT, made)
    return made


async def told(world: World) -> UUID:
    """An endpoint with a delivery of the same id."""
    made = await webhook(world)
    await world.owner.execute(DELIVERY, made)
    return made


async def pending(world: World) -> UUID:
    """A command that waits for an operator's approval."""
    request = CallRequest(tool="policy", method="asked", args={"what": str(uuid4())})
    return (await accept(world.broker, request)).written.id


async def hold(world: World) -> UUID:
    """A hold that no call meets; as a row, since a tenant has so many at the most."""
    return await world.asked(
        "INSERT INTO holds (id, tenant_id, ordering_key, effect, reason, placed_by)"
        " VALUES (gen_random_uuid(), 'demo', $1, 'wait', 'r', 'x') RETURNING id",
        str(uuid4()),
    )


PLAN: Final[dict[str, Any]] = {
    "steps": [
        {
            "id": "b",
            "tool": "lab_do",
            "method": "",
            "args": {"text": "{{ steps.a.result.text }}"},
            "needs": ["a"],
            "kind": "compensatable",
            "compensate": {"tool": "lab", "method": "undo", "args": {"text": "d"}},
            "reconcile": {"tool": "lab", "method": "look", "args": {"text": "d"}},
            "retry": {"attempts_max": 2},
            "timeout_s": 60,
            "ordering_key": "k",
            "approval": "operator",
        },
        {"id": "a", "tool": "probe_echo", "args": {"text": "x"}, "kind": "readonly", "needs": []},
    ],
}
UNDONE: Final[dict[str, Any]] = {
    "steps": [
        {
            "id": one,
            "tool": "lab_do",
            "args": {"text": one},
            "compensate": {"tool": "lab_undo", "args": {"text": one}},
        }
        for one in "ab"
    ]
}


KNOWN: Final[dict[str, Any]] = {
    "name": "known",
    "input": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    "steps": [
        {"id": "a", "tool": "probe_echo", "args": {"text": "{{ input.x }}"}, "kind": "readonly"}
    ],
}


async def saga(world: World) -> UUID:
    """A saga whose first step waits."""
    return await world.lab.run(PLAN)


async def adhoc(world: World) -> UUID:
    """A saga to which its caller adds steps."""
    made = uuid_utils.uuid7()
    request = echo(saga_id=made, saga_step="a")
    await accept(world.broker, request)
    return made


async def completed(world: World) -> UUID:
    """A saga that has ended, so that nobody waits for its end."""
    made = await world.lab.run(UNDONE)
    await world.lab.do(made, "a", result={})
    await world.lab.do(made, "b", result={})
    assert (await world.lab.saga(made))[0] == "completed"
    return made


async def half_undone(world: World) -> UUID:
    """A saga that waits for an operator, as an undo failed."""
    made = await world.lab.run(UNDONE)
    await world.lab.do(made, "a", result={})
    await world.lab.do(made, "b", error=NEVER)
    await world.lab.do(made, "undo a", error=NEVER)
    assert (await world.lab.saga(made))[0] == "compensation_failed"
    return made
