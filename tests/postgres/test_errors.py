"""What an error of the database says of it: away for now, or wrong for good."""

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.postgres.engine import is_away
from app.postgres.migrate import connected
from devstack.stack import Dsns

NO_MONTH = (
    "INSERT INTO audit.events (tenant_id, type, actor, occurred_at)"
    " VALUES ('demo', 'x', 'x', '2999-01-01')"
)
NO_STATUS = (
    "INSERT INTO outbox (tenant_id, kind, topic, key, payload, status)"
    " VALUES ('demo', 'audit', 't', 'k', '{}', 'nonsense')"
)


@pytest.mark.parametrize(("statement", "away"), [(NO_MONTH, True), (NO_STATUS, False)])
async def test_a_month_that_is_not_made_yet_passes_and_a_broken_check_does_not(
    database: Dsns, statement: str, away: bool
) -> None:
    """Whoever is answered 503 comes again; by then a replica has made the months."""
    conn = await asyncpg.connect(database.owner)
    try:
        with pytest.raises(asyncpg.CheckViolationError) as raised:
            await conn.execute(statement)
    finally:
        await conn.close()
    assert is_away(raised.value) is away
    async with connected(database.owner) as engine, engine.connect() as through:
        with pytest.raises(DBAPIError) as wrapped:
            await through.execute(text(statement))
    assert is_away(wrapped.value) is away
