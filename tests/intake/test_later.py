"""Calls that start later: they wait for their time, their deadline counts from it, and so on."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.commands.envelope import envelope
from app.commands.store import dispatch_record
from app.commands.store.dispatch_claim import LeasedRow, lease_commands
from app.commands.view import view
from app.edges.parts import Parts
from app.errors import BadRequestError
from app.intake.prepare import NOT_BEFORE_MAX
from devstack.stack import Dsns
from tests.support.calls import accept, counts, delete, echo, fetch, finish, subject

HOUR = timedelta(hours=1)
COME = "UPDATE outbox SET available_at = now() WHERE command_id = $1"


def later(by: timedelta = HOUR) -> datetime:
    return datetime.now(UTC) + by


async def lease(database: Dsns) -> list[LeasedRow]:
    """What the clock and a claim of the relay find."""
    pool = await asyncpg.create_pool(database.relay, min_size=1, max_size=1)
    try:
        await dispatch_record.wake_due(pool, limit=100)
        return await lease_commands(
            pool, relay="r", batch_max=50, window=100, aging_s=60, lease_s=30
        )
    finally:
        await pool.close()


async def leased(database: Dsns) -> list[UUID | None]:
    return [one.command_id for one in await lease(database)]


async def row(database: Dsns, command_id: UUID) -> Any:
    [found] = await fetch(
        database.owner,
        "SELECT c.*, o.status, o.available_at FROM commands c LEFT JOIN outbox o"
        " ON o.command_id = c.id AND o.kind = 'command' WHERE c.id = $1",
        command_id,
    )
    return found


@pytest.mark.guarantee("later:waits")
async def test_a_later_start_waits_for_its_time_and_others_go_before(
    broker: Parts, database: Dsns
) -> None:
    at = later()
    one = (await accept(broker, echo("later", not_before=at, deadline_s=60))).written
    other = (await accept(broker, echo("now"))).written.id
    found = await row(database, one.id)
    assert (found["status"], found["available_at"], found["not_before"]) == ("delayed", at, at)
    assert found["deadline_at"] == one.deadline_at == at + timedelta(seconds=60)
    assert await leased(database) == [other]
    shown = view(await subject(broker, one.id))
    assert shown["not_before"] == at.isoformat().replace("+00:00", "Z")
    assert shown["waiting_for"].startswith("its start: not before 2")
    await fetch(database.owner, COME, one.id)
    [gone] = await lease(database)
    assert gone.command is not None
    assert gone.command_id == one.id
    assert envelope(gone.command, by_reference=False)["deadline_ms"] == 60_000
    [event] = await fetch(
        database.owner, "SELECT body::text FROM audit.events WHERE command_id = $1", one.id
    )
    assert orjson.loads(event["body"])["not_before"] == shown["not_before"]


@pytest.mark.guarantee("later:waits")
async def test_a_later_start_holds_its_ordering_key(broker: Parts, database: Dsns) -> None:
    first = (await accept(broker, echo("1", ordering_key="k", not_before=later()))).written.id
    second = (await accept(broker, echo("2", ordering_key="k"))).written.id
    assert await leased(database) == []
    await fetch(database.owner, COME, first)
    assert await leased(database) == [first]
    await finish(broker, first, result={"text": "1"})
    assert await leased(database) == [second]


@pytest.mark.guarantee("later:waits")
async def test_a_later_start_behind_its_key_waits_for_both(broker: Parts, database: Dsns) -> None:
    first = (await accept(broker, echo("1", ordering_key="k"))).written.id
    second = (await accept(broker, echo("2", ordering_key="k", not_before=later()))).written.id
    assert await leased(database) == [first]
    await finish(broker, first, result={"text": "1"})
    assert await leased(database) == []
    assert (await row(database, second))["status"] == "delayed"


@pytest.mark.guarantee("later:waits")
async def test_a_call_for_later_is_no_twin_of_one_for_now_and_a_repeat_finds_it(
    broker: Parts, database: Dsns
) -> None:
    at = later()
    one = await accept(broker, delete(not_before=at))
    now = await accept(broker, delete())
    again = await accept(broker, delete(not_before=at.astimezone()))
    assert (again.written.id, again.deduplicated) == (one.written.id, True)
    assert now.written.id != one.written.id
    keyed = await accept(broker, echo(idempotency_key="k", not_before=later(-HOUR)))
    assert (await row(database, keyed.written.id))["status"] == "ready", "it has come"


@pytest.mark.guarantee("later:waits")
@pytest.mark.parametrize("by", [NOT_BEFORE_MAX + HOUR, -NOT_BEFORE_MAX - HOUR])
async def test_a_start_that_nobody_means_is_refused_and_leaves_nothing(
    broker: Parts, database: Dsns, by: timedelta
) -> None:
    with pytest.raises(BadRequestError, match="not_before"):
        await accept(broker, echo(not_before=later(by)))
    assert await counts(database.owner) == (0, 0, 0)


@pytest.mark.guarantee("later:waits")
async def test_who_calls_for_later_does_not_wait_for_it(broker: Parts) -> None:
    assert (await accept(broker, echo("1", not_before=later()))).wait_s == 0
    soon = later(timedelta(seconds=broker.settings.inline_wait_s / 2))
    assert (await accept(broker, echo("2", not_before=soon))).wait_s > 0
    asked = echo("3", idempotency_key="k", not_before=later())
    one = await accept(broker, asked)
    await finish(broker, one.written.id, result={"text": "3"})
    assert (await accept(broker, asked)).wait_s > 0, "what has ended is told at once"
