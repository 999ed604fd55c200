"""What time does: deadlines, leases, retries, grace periods."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.commands import control
from app.commands.store import commands
from app.edges.commands import cancel
from app.edges.parts import Parts
from app.postgres import leases
from app.postgres.engine import Database, tenant_transaction
from devstack.stack import Dsns
from relay.clock import Clock
from tests.support.calls import ADA, accept, claim, delete, echo, fetch, finish, state_of
from tests.support.stack import wait_for

LATE = "UPDATE commands SET {column} = now() - interval '1 second' WHERE id = $1"


async def late(database: Dsns, command_id: UUID, column: str) -> None:
    """Move a time of a command into the past, rather than wait for it."""
    await fetch(database.owner, LATE.format(column=column), command_id)


@pytest.mark.guarantee("deadline:queued")
async def test_a_call_past_its_deadline_ends_timed_out_and_frees_its_key(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    first = (await accept(broker, echo("a", ordering_key="k"))).written.id
    second = (await accept(broker, echo("b", ordering_key="k"))).written.id
    await late(database, first, "deadline_at")
    assert not (await claim(broker, first)).proceed, "the fence knows the time before the clock"
    await clock.tick()
    assert await state_of(database.owner, first) == "timed_out"
    assert (await claim(broker, second)).proceed


@pytest.mark.guarantee("deadline:async")
async def test_a_call_that_accepts_async_runs_on_past_its_deadline_and_the_miss_is_recorded_once(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    one = (await accept(broker, echo("a", accept_async=True))).written.id
    await late(database, one, "deadline_at")
    await clock.tick()
    await clock.tick()
    assert (await claim(broker, one)).proceed
    missed = await fetch(
        database.owner, "SELECT 1 FROM audit.events WHERE type = 'command.deadline_missed'"
    )
    assert len(missed) == 1


@pytest.mark.guarantee("deadline:running")
async def test_a_running_call_past_its_deadline_is_asked_to_stop_and_then_ended(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    one = (await accept(broker, echo("a"))).written.id
    await claim(broker, one)
    await late(database, one, "deadline_at")
    await clock.tick()
    [row] = await fetch(database.owner, "SELECT * FROM commands WHERE id = $1", one)
    assert (row["state"], row["cancel_target"]) == ("running", "timed_out")
    control_rows = await fetch(
        database.owner, "SELECT type FROM audit.events WHERE type = 'command.cancel_requested'"
    )
    assert len(control_rows) == 1
    await finish(broker, one, error={"message": "stopped"})
    assert await state_of(database.owner, one) == "timed_out"


@pytest.mark.guarantee("cancel:grace")
async def test_an_adapter_that_ignores_a_cancel_is_given_up_after_the_grace_period(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    one = (await accept(broker, delete("a"))).written.id
    await claim(broker, one)
    word = await cancel(broker, ADA, one, reason="enough")
    assert word.cancel_requested
    await late(database, one, "lease_until")
    await clock.tick()
    assert await state_of(database.owner, one) == "cancelled"


@pytest.mark.guarantee("lease:lost")
async def test_a_lost_lease_of_an_idempotent_tool_is_tried_again(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    one = (await accept(broker, echo("a"))).written.id
    await claim(broker, one)
    await late(database, one, "lease_until")
    await clock.tick()
    [row] = await fetch(database.owner, "SELECT state, attempt FROM commands WHERE id = $1", one)
    assert (row["state"], row["attempt"]) in {("queued", 2), ("dispatched", 2)}


@pytest.mark.guarantee("lease:unknown-blocks")
async def test_a_lost_lease_of_any_other_tool_is_unknown_and_blocks_its_key_until_told(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    await fetch(
        database.owner,
        "UPDATE tools SET policy = policy || '{\"idempotent\": false}' WHERE name = 'probe_echo'",
    )
    first = (await accept(broker, echo("a", ordering_key="k"))).written.id
    second = (await accept(broker, echo("b", ordering_key="k"))).written.id
    await claim(broker, first)
    await late(database, first, "lease_until")
    await clock.tick()
    [row] = await fetch(database.owner, "SELECT * FROM commands WHERE id = $1", first)
    assert (row["state"], row["outcome_unknown"]) == ("dead_lettered", True)
    assert not (await claim(broker, second)).proceed, "the key waits"
    with pytest.raises(Exception, match="recorded"):
        await finish(broker, first, result={"text": "a"})
    assert (await claim(broker, second)).proceed, "the late word lifts the block"


@pytest.mark.guarantee("clock:many")
async def test_two_clocks_at_once_end_a_command_once(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    ids = [(await accept(broker, echo(str(n)))).written.id for n in range(20)]
    for one in ids:
        await late(database, one, "deadline_at")
    await asyncio.gather(*(clock.tick() for _ in range(4)))
    rows = await fetch(
        database.owner, "SELECT count(*) AS n FROM audit.events WHERE type = 'command.timed_out'"
    )
    assert rows[0]["n"] == 20


@pytest.mark.guarantee("clock:boundaries")
async def test_a_command_that_time_cannot_move_holds_up_no_other_and_no_timer(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    broken = (await accept(broker, delete("a"))).written.id
    other = (await accept(broker, echo("b"))).written.id
    running = (await accept(broker, echo("c"))).written.id
    await claim(broker, running)
    await late(database, running, "lease_until")
    await late(database, broken, "deadline_at")
    await late(database, other, "deadline_at")
    await fetch(
        database.owner,
        "UPDATE commands SET deadline_at = deadline_at - interval '1 hour' WHERE id = $1",
        broken,
    )
    # A policy that this release cannot read.
    await fetch(
        database.owner,
        "UPDATE tools SET policy = policy || '{\"lease_s\": \"long\"}' WHERE name = 'git_delete'",
    )
    await clock.tick()
    assert await state_of(database.owner, other) == "timed_out"
    assert await state_of(database.owner, broken) in {"queued", "dispatched"}
    [row] = await fetch(database.owner, "SELECT attempt FROM commands WHERE id = $1", running)
    assert row["attempt"] == 2, "the timer after it had its turn"


@pytest.mark.guarantee("clock:partitions")
async def test_a_database_clock_that_is_past_the_last_month_of_the_audit_log_is_outlived(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    one = (await accept(broker, echo("a"))).written.id
    await late(database, one, "deadline_at")
    # As far as a write can tell, the clock has moved beyond all months that there are.
    for row in await fetch(
        database.owner,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'audit.events'::regclass",
    ):
        await fetch(database.owner, f"ALTER TABLE audit.events DETACH PARTITION {row['name']}")
        await fetch(
            database.owner, f"ALTER TABLE {row['name']} RENAME TO {row['name'].split('.')[1]}_old"
        )
    await clock.tick()
    assert await state_of(database.owner, one) == "timed_out"
    assert (await accept(broker, echo("b"))).written.new


@pytest.mark.guarantee("clock:set-back")
async def test_what_was_taken_while_the_databases_clock_was_ahead_is_free_again(
    broker: Parts, clock: Clock, relay_database: Database, database: Dsns
) -> None:
    pool = relay_database.pool
    assert await leases.take(pool, name="work", owner="dead", lease_s=4)
    assert await leases.take(pool, name="work", owner="living", lease_s=4) is None
    await fetch(database.owner, "UPDATE leases SET until = now() + interval '1 hour'")
    assert await leases.take(pool, name="work", owner="living", lease_s=4) == 2

    one = (await accept(broker, echo("orphan"))).written.id
    await fetch(
        database.owner,
        "UPDATE outbox SET status = 'claimed', claimed_by = 'dead',"
        " claimed_until = now() + interval '1 hour' WHERE command_id = $1",
        one,
    )

    async def gone() -> bool:
        await clock.tick()
        rows = await fetch(database.owner, "SELECT 1 FROM outbox WHERE claimed_by = 'dead'")
        return not rows

    assert await wait_for(gone)


async def test_a_cancel_of_a_waiting_command_ends_it_and_its_outbox_row(
    broker: Parts, database: Dsns
) -> None:
    first = (await accept(broker, echo("a", ordering_key="k"))).written.id
    second = (await accept(broker, echo("b", ordering_key="k"))).written.id
    word = await cancel(broker, ADA, second, reason="not needed")
    assert str(word.command.state) == "cancelled"
    rows = await fetch(database.owner, "SELECT command_id, kind FROM outbox ORDER BY id")
    assert [(row["command_id"], row["kind"]) for row in rows] == [
        (first, "command"),
        (second, "result"),
    ]
    async with tenant_transaction(broker.database.engine, "demo") as conn:
        found = await commands.find(conn, second)
        assert found is not None
        again = await control.cancel(
            conn,
            await control.locked(conn, found),
            policy=await broker.catalog.policy("probe", "echo"),
            actor="user:ada",
            reason="again",
            grace_s=1,
        )
    assert again.repeated


AHEAD = "UPDATE {table} SET {times} WHERE {key} = $1"


async def ahead(database: Dsns, table: str, key: str, command_id: UUID, *columns: str) -> None:
    """Put there what a clock would have written that was an hour ahead."""
    times = ", ".join(f"{column} = {column} + interval '1 hour'" for column in columns)
    await fetch(database.owner, AHEAD.format(table=table, times=times, key=key), command_id)


@pytest.mark.guarantee("clock:set-back-spans")
async def test_a_pause_that_began_while_the_clock_was_ahead_is_counted_from_now(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    retried = (await accept(broker, echo("a"))).written.id
    later = (await accept(broker, echo("b", not_before=tomorrow))).written.id
    await fetch(
        database.owner,
        "UPDATE outbox SET status = 'delayed', available_at = created_at + interval '20 s'"
        " WHERE command_id = $1",
        retried,
    )
    await ahead(database, "outbox", "command_id", retried, "created_at", "available_at")
    await ahead(database, "outbox", "command_id", later, "created_at")
    await clock.tick()
    rows = await fetch(
        database.owner,
        "SELECT command_id, status, available_at, extract(epoch FROM available_at - now()) AS s"
        "  FROM outbox",
    )
    left = {row["command_id"]: row for row in rows}
    assert {row["status"] for row in rows} == {"delayed"}
    assert 10 < left[retried]["s"] <= 20
    assert left[later]["available_at"] == tomorrow, "it may not start sooner"


@pytest.mark.guarantee("clock:set-back-spans")
async def test_a_lease_given_while_the_clock_was_ahead_ends_when_a_new_one_would(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    claimed, long, sent = [(await accept(broker, echo(text))).written.id for text in "abc"]
    for one in (claimed, long):
        await claim(broker, one)
    await fetch(
        database.owner,
        "UPDATE commands SET state = 'dispatched', dispatched_at = now(), deliveries = 2,"
        " lease_until = now() + interval '120 s' WHERE id = $1",
        sent,
    )
    await ahead(database, "commands", "id", claimed, "started_at", "lease_until")
    await ahead(database, "commands", "id", sent, "dispatched_at", "lease_until")
    await ahead(database, "commands", "id", long, "lease_until")
    await clock.tick()
    rows = await fetch(
        database.owner, "SELECT id, extract(epoch FROM lease_until - now()) AS s FROM commands"
    )
    left = {row["id"]: row["s"] for row in rows}
    assert 50 < left[claimed] <= 60
    assert 110 < left[sent] <= 120, "the second time it waits twice as long"
    assert left[long] > 3000, "nothing shows that it was not given so long a lease"
