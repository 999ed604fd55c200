"""What administrators change is in the trail, whatever hand changes it."""

import asyncpg
import pytest

from tests.audit.conftest import Log

CHANGES = {
    "tenants": ("UPDATE tenants SET queued_max = 7 WHERE tenant_id = 'demo'", "demo"),
    "grants": (
        "INSERT INTO grants VALUES ('demo', 'user', 'ada', 'git/*', 'deny')",
        "demo",
    ),
    "tools": ("UPDATE tools SET in_flight_max = 7 WHERE tool = 'probe'", "_broker"),
    "targets": (
        "INSERT INTO targets (tenant_id, name, kind) VALUES ('demo', 'n', 'echo')",
        "demo",
    ),
    "audit.auditors": ("INSERT INTO audit.auditors VALUES ('postgres', 'other')", "other"),
}
NEWEST = """
    SELECT type, actor, user_id, tenant_id, body ->> 'change' AS change, body ->> 'after' AS after
      FROM audit.events
     WHERE type LIKE '%.changed'
"""


@pytest.mark.guarantee("audit:changes")
@pytest.mark.parametrize("table", CHANGES)
@pytest.mark.parametrize("replica", [False, True], ids=["origin", "replica"])
async def test_a_change_by_sql_is_audited_in_its_transaction(
    log: Log, table: str, replica: bool
) -> None:
    statement, tenant = CHANGES[table]
    if replica:
        await log.owner.execute("SET session_replication_role = replica")
    transaction = log.owner.transaction()
    await transaction.start()
    await log.owner.execute(statement)
    rows = await log.owner.fetch(NEWEST)
    assert rows
    assert {row["tenant_id"] for row in rows} == {tenant}
    assert {row["type"] for row in rows} == {f"{table.rpartition('.')[2][:-1]}.changed"}
    assert {row["actor"] for row in rows} == {f"db:{await log.owner.fetchval('SELECT user')}"}
    await transaction.rollback()
    assert await log.owner.fetch(NEWEST) == [], "undone with it"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="DELETE its rows"):
        await log.owner.execute(f"TRUNCATE {table} CASCADE")


@pytest.mark.guarantee("audit:changes")
async def test_the_grants_of_an_erased_person_name_nobody_in_a_log_that_verifies(log: Log) -> None:
    await log.owner.execute(CHANGES["grants"][0])
    await log.owner.execute("DELETE FROM grants WHERE subject = 'ada'")
    assert [row["user_id"] for row in await log.owner.fetch(NEWEST)] == ["ada", "ada"]
    await log.seal()
    [done] = await log.erase("ada")
    assert done.events == 2
    await log.seal()
    assert (await log.verify())["ok"]
    rows = await log.owner.fetch("SELECT to_jsonb(e)::text AS e FROM audit.events e")
    assert not any('"ada"' in row["e"] for row in rows)


@pytest.mark.guarantee("audit:changes")
async def test_a_grant_that_is_made_anothers_is_in_both_logs_each_with_its_own_side(
    log: Log,
) -> None:
    await log.owner.execute(CHANGES["grants"][0])
    await log.owner.execute(
        "UPDATE grants SET tenant_id = 'other', subject = 'eve' WHERE subject = 'ada'"
    )
    rows = await log.owner.fetch(
        "SELECT tenant_id, user_id, body::text AS body FROM audit.events"
        " WHERE body ->> 'change' = 'update' ORDER BY tenant_id"
    )
    assert [(row["tenant_id"], row["user_id"]) for row in rows] == [
        ("demo", "ada"),
        ("other", "eve"),
    ]
    assert ["ada" in row["body"] for row in rows] == [True, False]
    assert ["eve" in row["body"] for row in rows] == [False, True]
