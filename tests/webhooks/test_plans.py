"""What is read of the audit trail for webhooks and for MCP's events is what is new in it."""

import asyncpg

from app.edges.parts import Parts
from app.sagas.store.occurrences import NEXT, WHAT
from app.webhooks.store.deliveries import CLAIM
from app.webhooks.store.telling import TELL
from devstack.stack import Dsns
from tests.support.plans import hungriest
from tests.webhooks.test_delivery import ended

OLD = 20_000
NEW = 5
PAST = """
    INSERT INTO audit.events (tenant_id, type, actor, user_id, tool, method, state_from, state_to)
    SELECT 'demo', 'command.succeeded', 'test', 'ada', 'probe', 'echo', 'running', 'succeeded'
      FROM generate_series(1, $1::int)
"""
ENDPOINTS = """
    INSERT INTO webhook_endpoints (tenant_id, url, kinds, secret, from_xid, created_by)
    SELECT 'demo', 'https://example.org/', '{command.ended}', '', '1', 'x'
      FROM generate_series(1, 3)
"""
DELIVERED = """
    INSERT INTO webhook_deliveries
           (tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data, state, ended_at)
    SELECT 'demo', id, 'command.ended', gen_random_uuid(), '1', now(), '{}', 'delivered', now()
      FROM webhook_endpoints, generate_series(1, $1::int)
"""


def written(statement: str, **values: object) -> str:
    """A statement with its parameters as literals."""
    for name in sorted(values, key=len, reverse=True):
        value = values[name]
        text = "{" + ",".join(value) + "}" if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]
        literal = "NULL" if value is None else str(value) if isinstance(value, int) else f"'{text}'"
        statement = statement.replace(f":{name}", literal)
    return statement


async def test_what_is_read_is_what_is_new(broker: Parts, database: Dsns) -> None:
    owner = await asyncpg.connect(database.owner)
    try:
        await owner.execute(PAST, OLD)
        await owner.execute(ENDPOINTS)
        await owner.execute(DELIVERED, OLD // 3)
        since = str(await owner.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())"))
        for n in range(NEW):
            await ended(broker, f"e{n}")
        until = str(await owner.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())"))
        await owner.execute("ANALYZE")
        tell = written(TELL.text, since=since, until=until, open=until, **WHAT)
        async with owner.transaction():
            assert await hungriest(owner, tell) <= 20 * NEW, "what is old is not read"
        next_ = written(
            NEXT.text,
            tenant_id="demo",
            user_id="ada",
            kind="command.ended",
            **WHAT,
            tool=None,
            method=None,
            xid=since,
            at="1970-01-01T00:00:00Z",
            event_id="00000000-0000-0000-0000-000000000000",
            until=until,
            since="1970-01-01T00:00:00Z",
            limit=100,
        )
        assert await hungriest(owner, next_) <= 20 * NEW
        await owner.execute(tell)
        claim = written(
            CLAIM.text,
            each=4,
            limit=64,
            lease="00000000-0000-0000-0000-000000000001",
            lease_s=30,
            probes=["webhook.ping"],
        )
        async with owner.transaction():
            assert await hungriest(owner, claim) <= 20 * NEW, "what was delivered is not read"
    finally:
        await owner.close()
