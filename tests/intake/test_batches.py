"""What the hot path's short cuts must not cost: the catalog's news, the queue's bound, scope."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import pytest
from sqlalchemy import event

from app.catalog.store import Tenant
from app.edges.parts import Parts
from app.errors import QueueFullError
from app.intake.batches import IntakeBatcher
from app.intake.queues import Queues
from app.postgres.batcher import BATCH_MIN
from devstack.stack import Dsns
from tests.support.calls import ADA, EVE, accept, echo, fetch

WAITS = """
    SELECT 1 FROM pg_locks
     WHERE NOT granted AND relation = CAST($1 AS regclass)
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def statements(broker: Parts) -> Generator[list[str]]:
    """The everyday statements of the block."""
    seen: list[str] = []

    def see(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = broker.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", see)


@asynccontextmanager
async def locked(database: Dsns, table: str) -> AsyncGenerator[asyncpg.Connection]:
    """The table, readable by nobody else until the connection's transaction ends."""
    conn = await asyncpg.connect(database.owner)
    try:
        await conn.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield conn
    finally:
        await conn.close()


async def waited_for(database: Dsns, table: str) -> None:
    """Somebody waits for the locked table."""
    async with asyncio.timeout(10):
        while not await fetch(database.owner, WAITS, table):
            pass


async def test_a_burst_on_a_cold_catalog_reads_a_tenant_and_the_tools_once(broker: Parts) -> None:
    with statements(broker) as seen:
        await asyncio.gather(*(broker.preparer.prepare(ADA, echo(str(n))) for n in range(100)))
    assert sum("FROM tenants" in one for one in seen) == 1
    assert sum("FROM tools" in one for one in seen) == 1


@pytest.mark.guarantee("hot:catalog-news")
async def test_what_was_read_before_a_change_is_not_kept_after_it(
    broker: Parts, database: Dsns
) -> None:
    async with locked(database, "grants"):
        early = asyncio.create_task(broker.catalog.tenant("demo"))
        await waited_for(database, "grants")  # it has read the tenant, and reads its grants
        await fetch(database.owner, "UPDATE tenants SET queued_max = 7 WHERE tenant_id = 'demo'")
        broker.catalog.forget()
    await early
    view = await broker.catalog.tenant("demo")
    assert view is not None
    assert view.tenant.queued_max == 7


async def test_a_burst_is_let_in_up_to_the_queues_bound_and_no_further(
    broker: Parts, database: Dsns
) -> None:
    await fetch(database.owner, "UPDATE tenants SET queued_max = 5 WHERE tenant_id = 'demo'")
    answers = await asyncio.gather(
        *(accept(broker, echo(str(n))) for n in range(50)), return_exceptions=True
    )
    assert sum(isinstance(one, QueueFullError) for one in answers) == 45
    counted = "SELECT count(*) FROM commands WHERE tenant_id = 'demo'"
    assert (await fetch(database.owner, counted))[0][0] == 5


@pytest.mark.guarantee("hot:queue-bound")
async def test_while_a_queue_is_counted_again_others_go_on_by_what_is_known(
    broker: Parts, database: Dsns
) -> None:
    await fetch(database.owner, "UPDATE tenants SET queued_max = 3 WHERE tenant_id = 'demo'")
    view = await broker.catalog.tenant("demo")
    assert view is not None
    queues = Queues(broker.database.engine, kept_s=0, spent_share=float("inf"))  # always due
    await queues.admit(view.tenant)
    async with locked(database, "commands"):
        counting = asyncio.create_task(queues.admit(view.tenant))
        await waited_for(database, "commands")
        await queues.admit(view.tenant)
        await queues.admit(view.tenant)
        with pytest.raises(QueueFullError):
            await queues.admit(view.tenant)
        counting.cancel()  # the count goes on without the one who asked for it
        with pytest.raises(asyncio.CancelledError):
            await counting
    async with asyncio.timeout(10):  # none was written: there is room, once the count has ended
        while not await admitted(queues, view.tenant):
            pass


async def admitted(queues: Queues, tenant: Tenant) -> bool:
    try:
        await queues.admit(tenant)
    except QueueFullError:
        await asyncio.sleep(0)  # refused without a wait: the count needs its turn
        return False
    return True


@pytest.mark.guarantee("hot:scope")
async def test_a_batchs_one_statement_writes_each_tenants_rows_and_leaves_no_scope_behind(
    broker: Parts, database: Dsns
) -> None:
    calls = [
        (await broker.preparer.prepare(who, echo(str(n), idempotency_key=str(n))))[0]
        for n, who in enumerate([ADA, EVE, ADA, EVE])
    ]
    pool = broker.database.pool
    alone = IntakeBatcher(pool, broker.notifier, batch_max=10, queue_max=10)
    writing = [asyncio.create_task(alone.accept(call)) for call in calls]
    async with alone.running():  # its workers start after the calls above are queued
        assert all([(await one).new for one in writing])
    rows = await fetch(database.owner, "SELECT DISTINCT xmin, tenant_id FROM commands")
    assert len({row["xmin"] for row in rows}) == 1, "one transaction"
    assert {row["tenant_id"] for row in rows} == {"demo", "other"}
    async with pool.acquire() as conn:
        assert not await conn.fetchval("SELECT current_setting('app.tenants', true)")
        assert await conn.fetchval("SELECT count(*) FROM commands") == 0


async def test_a_transaction_left_open_does_not_outlive_its_turn_with_a_connection(
    broker: Parts,
) -> None:
    pool = broker.database.pool
    conn = await pool.acquire()
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("SELECT set_config('app.tenants', '{demo}', true)")
    pid = conn.get_server_pid()
    await pool.release(conn)
    again = [await pool.acquire() for _ in range(pool.get_max_size())]
    [same] = [one for one in again if one.get_server_pid() == pid]
    assert not same.is_in_transaction()
    assert not await same.fetchval("SELECT current_setting('app.tenants', true)")
    for one in again:
        await pool.release(one)


async def test_in_one_batch_new_calls_are_written_beside_those_that_were_there(
    broker: Parts,
) -> None:
    first = await accept(broker, echo("0", idempotency_key="0"))
    answers = await asyncio.gather(
        *(accept(broker, echo(str(n), idempotency_key=str(n))) for n in range(4))
    )
    assert [one.written.new for one in answers] == [False, True, True, True]
    assert answers[0].written.id == first.written.id


@pytest.mark.guarantee("hot:batches")
@pytest.mark.parametrize(("callers", "sizes"), [(BATCH_MIN, [BATCH_MIN]), (64, [32, 32])])
async def test_calls_that_come_together_are_shared_by_the_batches_in_flight(
    broker: Parts, database: Dsns, callers: int, sizes: list[int]
) -> None:
    """One batch of all would have nothing gathered beside it, and callers would stay in step."""
    await broker.preparer.prepare(ADA, echo())  # nobody waits for the catalog
    async with asyncio.TaskGroup() as group:
        for n in range(callers):
            group.create_task(accept(broker, echo(str(n))))
    batches = "SELECT count(*) AS n FROM commands GROUP BY xmin"
    assert sorted(row["n"] for row in await fetch(database.owner, batches)) == sizes
