"""What an observer sees: aggregates of every tenant, none of the content, and no walk to get it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.commands.report import Kind
from app.commands.store import figures
from app.edges.commands import cancel
from app.edges.parts import Parts
from app.postgres.engine import tenant_transaction
from benchmarks.servers import execute, fill, settle
from devstack.stack import Dsns
from tests.commands.test_reports import report
from tests.support.calls import ADA, EVE, accept, claim, delete, echo, fetch, finish
from tests.support.plans import hungriest

OLD, RECENT, BUSY = 20_000, 40, 30
CONTENT = ("args", "result", "error", "user_id", "ordering_key", "idempotency_key", "id", "message")
VIEWS = (
    "tools",
    "tenants",
    "tenants_now",
    "executors",
    "sagas",
    "seals",
    "waiting",
    "outbox",
    "webhooks",
    "holds",
)
MINUTES = "ops.minutes(now() - interval '1 hour', now() + interval '1 second')"
ENDED = """
    UPDATE commands
       SET state = 'succeeded', finished_at = now() - interval '{ago}', result = '1',
           created_at = now() - interval '{ago}' - interval '4 seconds',
           started_at = now() - interval '{ago}' - interval '1 second'
     WHERE state = 'queued' AND idempotency_key LIKE 'fill-{tag}%';
    DELETE FROM outbox
"""
LATER = """
    UPDATE commands
       SET created_at = finished_at - interval '2 hours', not_before = finished_at {since}
     WHERE id = $1
"""


async def storm(broker: Parts) -> None:
    """A success, a dead letter after two retries, a cancel, one that runs; one of other waits."""
    one = (await accept(broker, echo())).written.id
    await broker.reports.report(report(Kind.CLAIM, one))
    await broker.reports.report(report(Kind.RESULT, one, result={"text": "hi"}))
    two = (await accept(broker, delete("a"))).written.id
    for attempt in (1, 2, 3):
        await claim(broker, two, attempt=attempt)
        await finish(broker, two, attempt=attempt, error={"message": "the host is away"})
    three = (await accept(broker, echo("c"))).written.id
    await cancel(broker, ADA, three, reason="enough")
    four = (await accept(broker, echo("d"))).written.id
    await claim(broker, four)
    await accept(broker, echo("e"), who=EVE)


@pytest.mark.guarantee("ops:aggregates")
async def test_levels_tell_of_each_tool_and_tenant_what_became_of_its_calls(
    broker: Parts, database: Dsns
) -> None:
    await storm(broker)
    tools = {
        (row["period"], row["tool"], row["method"]): row
        for row in await fetch(database.observer, "SELECT * FROM ops.tools")
    }
    assert tools.keys() == {
        (period, *which)
        for period in ("1h", "24h")
        for which in (("probe", "echo"), ("git", "delete"))
    }
    deleted, echoed = tools["1h", "git", "delete"], tools["24h", "probe", "echo"]
    assert (deleted["calls"], deleted["dead_lettered"], deleted["retries"]) == (1, 1, 2)
    assert (deleted["dead_letter_rate"], deleted["error_rate"]) == (1, 1)
    assert (echoed["calls"], echoed["succeeded"], echoed["cancelled"]) == (2, 1, 1)
    assert echoed["error_rate"] == 0
    assert 0 < echoed["run_p50_s"] <= echoed["call_p99_s"] < 60
    [tenant] = await fetch(database.observer, "SELECT * FROM ops.tenants WHERE period = '1h'")
    assert (tenant["tenant_id"], tenant["calls"], tenant["retries"]) == ("demo", 3, 2)
    minutes = await fetch(database.observer, f"SELECT * FROM {MINUTES}")
    assert {row["tenant_id"] for row in minutes} == {"demo"}
    assert sum(row["calls"] for row in minutes) == 3


@pytest.mark.guarantee("ops:aggregates")
async def test_a_call_takes_time_from_the_start_that_its_caller_allows(
    broker: Parts, database: Dsns
) -> None:
    ids = [(await accept(broker, echo(text))).written.id for text in ("later", "never")]
    await claim(broker, ids[0])
    await finish(broker, ids[0], result={"text": "hi"})
    await cancel(broker, ADA, ids[1], reason="enough")
    # Three seconds after its start; and a day before it.
    for one, since in zip(ids, ("- interval '3 s'", "+ interval '1 day'"), strict=True):
        await fetch(database.owner, LATER.format(since=since), one)
    for view in ("tools", "tenants"):
        for row in await fetch(database.observer, f"SELECT * FROM ops.{view}"):
            took = (row["call_p50_s"], row["call_p99_s"])
            assert took == pytest.approx((1.5, 2.97)), view
    [minute] = await fetch(database.observer, f"SELECT max(call_p95_s) AS s FROM {MINUTES}")
    assert 2 < minute["s"] <= 3
    since = datetime.now(UTC) - timedelta(hours=3)
    async with tenant_transaction(broker.database.engine, "demo") as conn:
        done = (await figures.done(conn, tenant_id="demo", since=since))["probe", "echo"]
    assert (done.p50_s, done.p99_s) == pytest.approx((1.5, 2.97))


@pytest.mark.guarantee("ops:aggregates")
async def test_what_there_is_now_is_told_by_tenant_and_by_executor(
    broker: Parts, database: Dsns
) -> None:
    await storm(broker)
    now = {
        row["tenant_id"]: row
        for row in await fetch(database.observer, "SELECT * FROM ops.tenants_now")
    }
    assert now.keys() == {"demo", "other"}
    demo, other = now["demo"], now["other"]
    assert (demo["queued"], demo["in_flight"], demo["dead_letters"]) == (0, 1, 1)
    assert (other["queued"], other["in_flight"], other["dead_letters"]) == (1, 0, 0)
    assert 0 < other["oldest_ready_s"] < 60
    [waits] = await fetch(database.observer, "SELECT * FROM ops.waiting")
    assert (waits["tenant_id"], waits["what"], waits["count"]) == ("demo", "dead letter", 1)
    assert 0 < waits["oldest_s"] < 60
    rows = await fetch(database.observer, "SELECT * FROM ops.outbox WHERE oldest_s >= 0")
    assert sum(row["count"] for row in rows if row["status"] == "ready") > 0
    [busy] = await fetch(database.observer, "SELECT * FROM ops.executors")
    assert (busy["executor"], busy["method"], busy["running"]) == ("eda", "echo", 1)


@pytest.mark.guarantee("ops:aggregates")
async def test_an_observer_reads_no_content_of_a_call_and_no_table(
    broker: Parts, database: Dsns
) -> None:
    await storm(broker)
    conn = await asyncpg.connect(database.observer)
    try:
        for view in VIEWS:
            await conn.fetch(f"SELECT * FROM ops.{view}")
            columns = await conn.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass",
                f"ops.{view}",
            )
            assert not {row["attname"] for row in columns} & set(CONTENT), view
        for table in ("commands", "tenants", "outbox", "audit.seals"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch(f"SELECT 1 FROM {table}")
        with pytest.raises(asyncpg.PostgresError):
            await conn.execute("DELETE FROM ops.sagas")
    finally:
        await conn.close()


@pytest.mark.guarantee("ops:bounded")
async def test_a_look_reads_what_ended_in_its_time_and_not_what_ended_before(
    database: Dsns,
) -> None:
    for count, ago, tag in ((OLD, "3 days", "old"), (RECENT, "10 minutes", "new")):
        await fill(database.owner, count, tag=tag)
        await execute(database.owner, ENDED.format(ago=ago, tag=tag))
    await settle(database.owner)
    conn = await asyncpg.connect(database.owner)
    try:
        for look in ("ops.tools", "ops.tenants", "ops.tenants_now", "ops.executors"):
            assert await hungriest(conn, f"SELECT * FROM {look}") < 3 * RECENT, look
        # A function's plan is its own; as a statement, it is the one that is made.
        [body] = await conn.fetch("SELECT prosrc FROM pg_proc WHERE proname = 'minutes'")
        assert await hungriest(conn, bound(body["prosrc"])) < 3 * RECENT
        [row] = await conn.fetch(f"SELECT sum(calls) AS calls FROM {MINUTES}")
        assert row["calls"] == RECENT
    finally:
        await conn.close()


def bound(source: str) -> str:
    since = source.replace("since", "now() - interval '1 hour'")
    return since.replace("until", "now()")


@pytest.mark.guarantee("ops:bounded")
async def test_a_deep_queue_costs_the_age_of_its_oldest_no_walk(database: Dsns) -> None:
    await fill(database.owner, OLD, tag="deep")
    await execute(
        database.owner,
        "UPDATE outbox SET created_at = now() - interval '5 minutes',"
        " available_at = now() - interval '5 minutes' WHERE id = (SELECT min(id) FROM outbox)",
    )
    await settle(database.owner)
    conn = await asyncpg.connect(database.owner)
    try:
        age = "SELECT tenant_id, oldest_ready_s FROM ops.tenants_now WHERE oldest_ready_s > 0"
        assert await hungriest(conn, age) < 100
        [row] = await conn.fetch(age)
        assert 300 <= row["oldest_ready_s"] < 360
    finally:
        await conn.close()
