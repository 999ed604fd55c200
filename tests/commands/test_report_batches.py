"""The batcher of reports under harm: faults, locks, crossing keys, a kill in the middle."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.commands.report import Answer, Kind
from app.commands.reports import ReportBatcher
from app.commands.view import view
from app.edges.commands import find
from app.edges.parts import Parts
from app.errors import BrokerError, UnavailableError
from app.postgres.batcher import BATCH_MIN
from devstack.postgres import free_port
from devstack.stack import AppProcess, Dsns
from devstack.tokens import DevIssuer
from tests.commands.test_reports import all_of, report
from tests.conftest import AUDIENCE
from tests.support.calls import ADA, EVE, accept, delete, echo, fetch, state_of
from tests.support.faults import InjectedFaultError, faulty_pool

EVERYTHING = """
    SELECT (SELECT json_agg(c ORDER BY c.id)::text FROM commands c) AS commands,
           (SELECT json_agg(o ORDER BY o.id)::text FROM outbox o) AS outbox,
           (SELECT json_agg(h ORDER BY h.ordering_key)::text FROM ordering_heads h) AS heads,
           (SELECT count(*) FROM progress) AS progress,
           (SELECT count(*) FROM audit.events) AS events
"""
WAITING = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
DONE = {"text": "done"}
EVERY_JSON = """
    UPDATE commands
       SET approval = 'approved', approval_rule = '{"by": "operator"}',
           approvals = '[{"user": "bob", "at": "2026-12-01T00:00:00Z"}]',
           asserted = '{"reason": "asked"}',
           run = '{"name": "job 1", "status": "running"}',
           compensation = '{"tool": "probe", "method": "echo", "args": {}}'
     WHERE id = $1
"""


@asynccontextmanager
async def holding(dsn: str, query: str, *values: Any) -> AsyncGenerator[asyncpg.Connection]:
    """Rows that nobody else may lock while the block lasts."""
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("BEGIN")
        assert await conn.fetch(query, *values)
        yield conn
        await conn.execute("ROLLBACK")
    finally:
        await conn.close()


async def waited(conn: asyncpg.Connection, number: int = 1) -> None:
    """So many sessions wait for a lock."""
    async with asyncio.timeout(10):
        while (await conn.fetchval(WAITING) or 0) < number:
            pass


def second(broker: Parts, pool: asyncpg.Pool) -> ReportBatcher:
    """Another replica's batcher."""
    return ReportBatcher(
        broker.database.engine,
        pool,
        broker.notifier,
        broker.feed,
        broker.catalog,
        leases=broker.leases,
        random=broker.random,
        batch_max=64,
        queue_max=1000,
    )


async def keyed(broker: Parts, name: str, *, key: str = "k") -> UUID:
    return (await accept(broker, echo(name, ordering_key=key))).written.id


@pytest.mark.guarantee("report:alone")
async def test_a_lookup_that_the_database_refuses_is_told_as_what_it_is(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id
    right = "EXECUTE ON FUNCTION broker_tenant_of(uuid)"
    await fetch(database.owner, f"REVOKE {right} FROM broker_app, PUBLIC")
    for _ in range(2):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await broker.reports.report(report(Kind.RESULT, one, result=DONE))
    await fetch(database.owner, f"GRANT {right} TO broker_app")
    answer = await broker.reports.report(report(Kind.RESULT, one, result=DONE))
    assert answer.body["state"] == "succeeded"


@pytest.mark.guarantee("report:alone")
async def test_no_report_passes_an_earlier_one_of_its_command_that_is_looked_at_alone(
    broker: Parts, database: Dsns
) -> None:
    mine, other = await keyed(broker, "mine"), await keyed(broker, "other", key="l")
    await all_of(broker, [report(Kind.CLAIM, one) for one in (mine, other)])
    head = "SELECT 1 FROM ordering_heads WHERE ordering_key = 'k' FOR UPDATE"
    async with holding(database.owner, head) as conn:
        # No statement moves a claim that is repeated: it is looked at, with its key's head.
        again = asyncio.create_task(broker.reports.report(report(Kind.CLAIM, mine)))
        await waited(conn)
        later = asyncio.create_task(
            broker.reports.report(report(Kind.PROGRESS, mine, stage="later"))
        )
        await broker.reports.report(report(Kind.PROGRESS, other, stage="beside"))
        [row] = await conn.fetch("SELECT stage FROM commands WHERE id = $1", mine)
        assert row["stage"] is None, "progress went past the claim before it"
        assert not again.done()
        assert not later.done()
    assert (await again).body["proceed"]
    assert (await later).status == 200


async def test_a_repeated_claim_and_an_end_that_come_together_are_answered_in_their_order(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id
    await broker.reports.report(report(Kind.CLAIM, one))
    claimed, ended = await all_of(
        broker, [report(Kind.CLAIM, one), report(Kind.RESULT, one, result=DONE)]
    )
    assert isinstance(claimed, Answer)
    assert claimed.body["proceed"], "it ran still when the claim was repeated"
    assert isinstance(ended, Answer)
    assert await state_of(database.owner, one) == "succeeded"


@pytest.mark.guarantee("mcp:answers-fit")
async def test_a_repeated_result_that_does_not_fit_is_told_so_again(broker: Parts) -> None:
    one = (await accept(broker, echo())).written.id
    bad = report(Kind.RESULT, one, result={"text": 1})
    first, again = await broker.reports.report(bad), await broker.reports.report(bad)
    assert again.body["repeated"]
    assert again.body["misfit"] == first.body["misfit"]


async def test_who_waits_here_is_given_an_end_as_it_would_be_read(
    broker: Parts, database: Dsns
) -> None:
    """Once an approval was given on as the text of its JSON, of which no view can be made."""
    one = (await accept(broker, echo("whole"))).written.id
    await fetch(database.owner, EVERY_JSON, one)
    await broker.reports.report(report(Kind.CLAIM, one))
    with broker.feed.watch("demo", one, end_only=True, just_written=True) as watch:
        await broker.reports.report(report(Kind.RESULT, one, result=DONE))
        given = await watch.change(5)
    assert given is not None
    read = await find(broker, ADA, one)
    assert read.run is not None
    assert given == replace(read, args=None)
    assert view(given) == view(replace(read, args=None))


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("kind", [Kind.CLAIM, Kind.PROGRESS, Kind.RESULT])
async def test_a_fault_at_any_statement_of_a_batch_of_reports_leaves_nothing_behind(
    broker: Parts, database: Dsns, kind: Kind
) -> None:
    more: Mapping[str, Any] = {"result": DONE} if kind is Kind.RESULT else {}
    ids = [await keyed(broker, "first"), (await accept(broker, delete())).written.id]
    await keyed(broker, "waits for the first")
    if kind is not Kind.CLAIM:
        await all_of(broker, [report(Kind.CLAIM, one) for one in ids])
    async with faulty_pool(database.app) as (pool, faulty):
        batcher = second(broker, pool)
        async with batcher.running():
            seen, found = await fetch(database.owner, EVERYTHING), list[object]()
            for step in range(1, 20):
                faulty.left = step
                found[:] = await asyncio.gather(
                    *(batcher.report(report(kind, one, **more)) for one in ids),
                    return_exceptions=True,
                )
                faulty.left = 0
                if not any(isinstance(one, UnavailableError | InjectedFaultError) for one in found):
                    break
                assert await fetch(database.owner, EVERYTHING) == seen, f"torn at step {step}"
                assert step < 19, "the work is never whole"
    assert all(isinstance(one, Answer) and one.status == 200 for one in found), found
    assert await fetch(database.owner, EVERYTHING) != seen, "the work did nothing"


@pytest.mark.guarantee("report:alone")
async def test_batches_of_two_replicas_with_crossing_keys_do_not_deadlock(
    broker: Parts, database: Dsns
) -> None:
    """The same keys and commands in two orders, each word of each command by both."""
    async with asyncpg.create_pool(database.app, min_size=1, max_size=3) as pool:
        other = second(broker, pool)
        async with other.running():
            for round_ in range(5):
                ids = [await keyed(broker, f"{n}", key=f"{round_} {n}") for n in range(32)]
                for kind, more in (
                    (Kind.CLAIM, None),
                    (Kind.PROGRESS, None),
                    (Kind.RESULT, DONE),
                ):
                    asked = [report(kind, one, result=more) for one in ids]
                    found = await asyncio.gather(
                        *(broker.reports.report(one) for one in asked),
                        *(other.report(one) for one in reversed(asked)),
                    )
                    assert all(one.status == 200 for one in found), found
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM commands WHERE attempt = 1")
    assert row["n"] == 5 * 32
    states = await fetch(database.owner, "SELECT DISTINCT state FROM commands")
    assert [one["state"] for one in states] == ["succeeded"]
    events = "SELECT count(*) AS n FROM audit.events WHERE type = 'command.claimed'"
    assert (await fetch(database.owner, events))[0]["n"] == 5 * 32


@pytest.mark.guarantee("report:alone")
async def test_a_batch_writes_each_tenants_rows_and_leaves_no_scope_behind(
    broker: Parts, database: Dsns
) -> None:
    ids = [
        (await accept(broker, echo(str(n)), who=who)).written.id
        for n, who in enumerate([ADA, EVE, ADA, EVE])
    ]
    for kind in (Kind.CLAIM, Kind.RESULT):
        found = await all_of(broker, [report(kind, one) for one in ids])
        assert all(isinstance(one, Answer) and one.status == 200 for one in found), found
        rows = await fetch(database.owner, "SELECT DISTINCT xmin, tenant_id FROM commands")
        assert len({row["xmin"] for row in rows}) == 1, "one transaction"
        assert {row["tenant_id"] for row in rows} == {"demo", "other"}
    async with broker.database.pool.acquire() as conn:
        assert not await conn.fetchval("SELECT current_setting('app.tenants', true)")
        assert await conn.fetchval("SELECT count(*) FROM commands") == 0


@pytest.mark.guarantee("kernel:atomic")
async def test_a_replica_killed_in_the_middle_of_a_batch_leaves_nothing_of_it(
    broker: Parts, database: Dsns, issuer: DevIssuer, tmp_path: Path
) -> None:
    """Killed while its batch waits for one row, with the other rows locked or written."""
    ids = [(await accept(broker, echo(str(n)))).written.id for n in range(BATCH_MIN)]
    await all_of(broker, [report(Kind.CLAIM, one) for one in ids])
    token = issuer.token(tenant="adapters", user="eda", scopes=["results:write"])
    items = [
        {"op": "result", "correlation_id": str(one), "attempt": 1, "status": "ok", "result": DONE}
        for one in ids
    ]
    env = {
        "MCP_BROKER_DATABASE_URL": database.app,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
    }
    app = AppProcess(home=tmp_path, env=env, port=free_port(), name="app")
    await asyncio.to_thread(app.start)
    try:
        async with httpx.AsyncClient(
            base_url=app.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        ) as http:
            seen = await fetch(database.owner, EVERYTHING)
            last = "SELECT 1 FROM commands WHERE id = $1 FOR UPDATE"
            async with holding(database.owner, last, max(ids)) as conn:
                said = asyncio.create_task(http.post("/results/batch", json={"items": items}))
                await waited(conn)
                app.process.kill()
                with pytest.raises(httpx.TransportError):
                    await said
            assert await fetch(database.owner, EVERYTHING) == seen
    finally:
        await asyncio.to_thread(app.process.stop)
    found = await all_of(broker, [report(Kind.RESULT, one, result=DONE) for one in ids])
    assert all(isinstance(one, Answer) and not one.body["repeated"] for one in found), found
    assert not any(isinstance(one, BrokerError) for one in found)
