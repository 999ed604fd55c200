"""What an app process knows of holds: at once where one is placed, soon at all the others."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import event

from app.edges import holds as acts
from app.edges.holds import Wanted
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.errors import HeldError
from app.identity import Identity
from app.intake.holds import Holds
from app.postgres.wakeups import HOLDS
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import accept, echo
from tests.support.stack import wait_for

OLGA = Identity(tenant_id="demo", user_id="olga", client_id="olga", scopes=frozenset({"operator"}))
REFUSE = Wanted(tool="probe", effect="refuse")


@pytest.fixture
async def replica(
    database: Dsns, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Parts]:
    """Another app on the same database, which reads holds again for no reason but a change."""
    monkeypatch.setattr(Holds.__init__, "__kwdefaults__", {"kept_s": 1e9})
    async with open_broker(settings_of(database.app, issuer)) as made:
        yield made


async def place(broker: Parts) -> UUID:
    return (await acts.place(broker, OLGA, REFUSE, reason="mending")).hold.id


def told(replica: Parts, number: int) -> Any:
    """Whether it knows so many holds."""

    async def knows() -> bool:
        return len(await replica.holds.of("demo")) == number

    return knows


@pytest.mark.guarantee("holds:known")
async def test_an_idle_replica_hears_of_a_hold_and_of_its_end(
    broker: Parts, replica: Parts
) -> None:
    assert (await accept(replica, echo("before"))).hold is None
    hold_id = await place(broker)
    with pytest.raises(HeldError):
        await accept(broker, echo("here"))
    await wait_for(told(replica, 1))
    with pytest.raises(HeldError):
        await accept(replica, echo("there"))
    await acts.release(broker, OLGA, hold_id, reason="mended")
    assert (await accept(broker, echo("here"))).hold is None
    await wait_for(told(replica, 0))
    assert (await accept(replica, echo("there"))).hold is None


@pytest.mark.guarantee("holds:known")
async def test_the_first_call_after_a_change_waits_for_what_it_was(
    broker: Parts, replica: Parts
) -> None:
    await accept(replica, echo("before"))
    await place(broker)
    replica.holds.forget()  # as its listener does when it hears of it
    with pytest.raises(HeldError):
        await accept(replica, echo("first"))


@pytest.mark.guarantee("holds:known")
async def test_a_replica_that_could_not_listen_reads_holds_when_it_can_again(
    broker: Parts, replica: Parts, admin: asyncpg.Connection, database: Dsns
) -> None:
    # Both have connections by then that go on: new ones there are none.
    hold_id = await place(broker)
    await wait_for(told(replica, 1))
    await acts.release(broker, OLGA, hold_id, reason="mended")
    await wait_for(told(replica, 0))
    async with deaf(admin, database):
        await place(broker)
        assert await told(replica, 0)(), "it has not heard of it"
    await wait_for(told(replica, 1))


@asynccontextmanager
async def deaf(admin: asyncpg.Connection, database: Dsns) -> AsyncGenerator[None]:
    """Nobody of the database listens, inside the block."""
    await admin.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 0')
    try:
        listening = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name = 'broker-app-listen'"
        )
        await admin.execute(listening, database.name)

        async def gone() -> bool:
            return not await admin.fetch(listening, database.name)

        await wait_for(gone)
        yield
    finally:
        await admin.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT -1')


@pytest.mark.guarantee("holds:known")
async def test_a_read_that_hangs_holds_up_calls_for_a_second_together(
    broker: Parts, replica: Parts
) -> None:
    await accept(replica, echo("before"))
    engine = replica.database.engine
    await place(broker)
    await wait_for(told(replica, 1))
    go = asyncio.Event()
    waited = 0

    @event.listens_for(engine.sync_engine, "checkout")
    def hang(_connection: Any, _record: Any, proxy: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        nonlocal waited
        waited += 1
        proxy.dbapi_connection.run_async(lambda _: go.wait())

    loop = asyncio.get_running_loop()
    try:
        replica.holds.forget()
        began = loop.time()
        for _ in range(20):
            assert len(await replica.holds.of("demo")) == 1, "what was known goes on"
        assert loop.time() - began < 3
        assert waited == 1
    finally:
        event.remove(engine.sync_engine, "checkout", hang)
        go.set()


@pytest.mark.guarantee("access:reach")
async def test_false_notifications_of_any_login_cost_some_reads_a_second(
    broker: Parts, database: Dsns, replica: Parts
) -> None:
    await accept(replica, echo("before"))
    reads = 0

    def count(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal reads
        reads += "FROM holds h" in statement and "ORDER BY h.id" in statement

    event.listen(replica.database.engine.sync_engine, "before_cursor_execute", count)
    conn = await asyncpg.connect(database.auditor)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        for _ in range(300):
            await conn.execute("SELECT pg_notify($1, '')", HOLDS)
            await replica.holds.of("demo")
    finally:
        await conn.close()
        event.remove(replica.database.engine.sync_engine, "before_cursor_execute", count)
    assert 0 < reads <= 10 + 5 * (loop.time() - began)
