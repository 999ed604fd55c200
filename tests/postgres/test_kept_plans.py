"""Plans that were kept while a table was empty do not outlive its growth."""

import asyncpg
import pytest

from app.intake.store import ACTIVATE_NEXT
from app.postgres.engine import KEPT_PLANS
from benchmarks.servers import execute, fill
from devstack.stack import Dsns
from tests.support.plans import hungriest

MANY = 3000
HEAD = "INSERT INTO ordering_heads (tenant_id, ordering_key, next_seq) VALUES ('demo', 'k', 2)"
ASKED = "EXECUTE release('{demo}', '{k}')"
ANALYZE = "SELECT broker_analyze_grown()"


@pytest.mark.guarantee("ordering:release-cost")
async def test_a_key_is_released_without_a_walk_over_its_tenants_commands_once_they_are_many(
    database: Dsns,
) -> None:
    conn = await asyncpg.connect(database.app, server_settings=KEPT_PLANS)
    relay = await asyncpg.connect(database.relay)
    try:
        await conn.execute(
            "SET app.tenants = '{demo}';"
            f" PREPARE release (text[], text[]) AS {ACTIVATE_NEXT}; {ASKED}"
        )
        await fill(database.owner, MANY, tag="many")
        await execute(database.owner, HEAD)
        await fill(database.owner, 1, key="'k'", held=True, tag="held")
        assert await read(conn) > MANY, "the plan of an empty table reads them all"
        analyzed = await relay.fetchval(ANALYZE)
        assert {"commands", "outbox"} <= set(analyzed)
        assert await read(conn) < 10
        assert await relay.fetchval(ANALYZE) == [], "only what has doubled since"
    finally:
        await conn.close()
        await relay.close()


async def read(conn: asyncpg.Connection) -> float:
    """The rows that a release reads, which is then undone."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        return await hungriest(conn, ASKED)
    finally:
        await transaction.rollback()


async def test_only_the_relay_may_ask_for_statistics(database: Dsns) -> None:
    for dsn in (database.app, database.auditor):
        conn = await asyncpg.connect(dsn)
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(ANALYZE)
        finally:
            await conn.close()
