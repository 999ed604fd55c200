"""Accepting a call: whole or not at all, once per key."""

import asyncio

import pytest
from uuid_utils.compat import uuid7

from app.edges.parts import Parts
from app.errors import (
    BrokerError,
    CorrelationConflictError,
    IdempotencyConflictError,
    InvalidArgumentsError,
    OversizeError,
    UnknownToolError,
)
from app.intake.batches import IntakeBatcher
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from tests.support.calls import ADA, BOB, EVE, accept, claim, counts, delete, echo, fetch, finish

WINDOW = """
    UPDATE tools SET policy = policy || '{"dedupe": "window", "dedupe_window_s": 90}'
     WHERE name = 'git_delete'
"""


@pytest.mark.guarantee("intake:atomic")
async def test_a_call_is_one_command_one_outbox_row_and_one_event(
    broker: Parts, database: Dsns
) -> None:
    accepted = await accept(broker, echo())
    assert accepted.written.new
    assert await counts(database.owner) == (1, 1, 1)
    [row] = await fetch(database.owner, "SELECT * FROM outbox")
    assert (row["kind"], row["status"], row["command_id"]) == (
        "command",
        "ready",
        accepted.written.id,
    )


@pytest.mark.guarantee("intake:idempotent")
async def test_the_same_key_and_request_is_the_same_command_also_after_its_end(
    broker: Parts, database: Dsns
) -> None:
    first = await accept(broker, echo(idempotency_key="k"))
    again = await accept(broker, echo(idempotency_key="k"))
    assert (again.written.id, again.written.new) == (first.written.id, False)
    await finish(broker, first.written.id, result={"text": "hi"})
    later = await accept(broker, echo(idempotency_key="k"))
    assert (later.written.id, later.written.state) == (first.written.id, "succeeded")
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM commands")
    assert row["n"] == 1


@pytest.mark.guarantee("intake:idempotent")
async def test_the_same_key_for_another_request_is_refused_and_nothing_is_written(
    broker: Parts, database: Dsns
) -> None:
    await accept(broker, echo("hi", idempotency_key="k"))
    before = await counts(database.owner)
    with pytest.raises(IdempotencyConflictError, match="another request"):
        await accept(broker, echo("else", idempotency_key="k"))
    assert await counts(database.owner) == before


@pytest.mark.guarantee("intake:idempotent")
async def test_keys_of_two_tenants_do_not_meet(broker: Parts) -> None:
    mine = await accept(broker, echo(idempotency_key="k"), ADA)
    other = await accept(broker, echo(idempotency_key="k"), EVE)
    assert other.written.new
    assert mine.written.id != other.written.id


@pytest.mark.guarantee("tenancy:not-guessable")
@pytest.mark.parametrize("text", ["hi", "other"])
async def test_another_users_key_is_as_one_that_never_was(broker: Parts, text: str) -> None:
    his = await accept(broker, echo(idempotency_key="order-17"), BOB)
    mine = await accept(broker, echo(text, idempotency_key="order-17"), ADA)
    assert mine.written.new
    assert mine.written.id != his.written.id
    again = await accept(broker, echo(idempotency_key="order-17"), BOB)
    assert (again.written.id, again.replayed) == (his.written.id, True)


@pytest.mark.guarantee("intake:idempotent")
async def test_a_hundred_concurrent_twins_are_one_command(broker: Parts, database: Dsns) -> None:
    twins = [accept(broker, echo(idempotency_key="k")) for _ in range(100)]
    accepted = await asyncio.gather(*twins)
    assert len({one.written.id for one in accepted}) == 1
    assert sum(one.written.new for one in accepted) == 1
    assert await counts(database.owner) == (1, 1, 1)


@pytest.mark.guarantee("intake:deduplicated")
async def test_an_identical_call_without_a_key_joins_the_one_in_flight_only(broker: Parts) -> None:
    first = await accept(broker, delete())
    twin = await accept(broker, delete())
    assert (twin.written.id, twin.deduplicated) == (first.written.id, True)
    await finish(broker, first.written.id, result={"path": "d", "deleted": True})
    later = await accept(broker, delete())
    assert later.written.new


@pytest.mark.guarantee("intake:dedupe-window")
async def test_an_identical_call_joins_one_that_succeeded_until_its_window_is_over(
    broker: Parts, database: Dsns
) -> None:
    await fetch(database.owner, WINDOW)
    first = (await accept(broker, delete())).written.id
    await finish(broker, first, result={"path": "d", "deleted": True})
    twin = await accept(broker, delete())
    assert (twin.written.id, twin.deduplicated) == (first, True)
    [row] = await fetch(database.owner, "SELECT dedupe_until - finished_at AS s FROM commands")
    assert row["s"].total_seconds() == 90
    await fetch(database.owner, "UPDATE commands SET dedupe_until = now()")
    later = await asyncio.gather(*(accept(broker, delete()) for _ in range(20)))
    assert len({one.written.id for one in later} - {first}) == 1
    assert sum(one.written.new for one in later) == 1


@pytest.mark.guarantee("intake:dedupe-window")
async def test_a_call_that_failed_has_no_window(broker: Parts, database: Dsns) -> None:
    await fetch(database.owner, WINDOW)
    first = (await accept(broker, delete())).written.id
    await finish(broker, first, error={"message": "no", "retryable": False})
    assert (await accept(broker, delete())).written.new


async def test_a_read_only_tool_is_never_deduplicated(broker: Parts) -> None:
    first, second = await accept(broker, echo()), await accept(broker, echo())
    assert first.written.id != second.written.id


@pytest.mark.guarantee("intake:refusals-leave-nothing")
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (CallRequest(tool="no", method="such", args={}), UnknownToolError),
        (CallRequest(tool="probe", method="echo", args={}), InvalidArgumentsError),
        (CallRequest(tool="probe", method="echo", args={"text": 1}), InvalidArgumentsError),
        (CallRequest(tool="probe", method="echo", args={"text": "a\0b"}), InvalidArgumentsError),
        (CallRequest(tool="git", method="delete", args={"dest": "../x"}), InvalidArgumentsError),
        (CallRequest(tool="probe", method="echo", args={"text": "x" * 300_000}), OversizeError),
    ],
)
async def test_a_bad_call_is_refused_and_writes_no_command(
    broker: Parts, database: Dsns, request_: CallRequest, error: type[BrokerError]
) -> None:
    with pytest.raises(error):
        await accept(broker, request_)
    commands, outbox, _ = await counts(database.owner)
    assert (commands, outbox) == (0, 0)


@pytest.mark.guarantee("intake:batch-isolation")
async def test_a_call_that_the_database_refuses_fails_alone_in_its_batch(
    broker: Parts, database: Dsns
) -> None:
    taken = uuid7()
    await accept(broker, echo("first", correlation_id=taken, idempotency_key="a"))
    calls = [accept(broker, echo(f"n{n}", idempotency_key=f"n{n}")) for n in range(20)]
    calls.append(accept(broker, echo("second", correlation_id=taken, idempotency_key="b")))
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(done[-1], CorrelationConflictError)
    assert not [one for one in done[:-1] if isinstance(one, BaseException)]
    assert await counts(database.owner) == (21, 21, 21)


@pytest.mark.guarantee("intake:crossing-keys")
async def test_batches_with_crossing_keys_of_two_replicas_do_not_deadlock(
    broker: Parts, database: Dsns
) -> None:
    # Two batchers stand for two replicas; each sends the same keys in another order.
    second = IntakeBatcher(broker.database.pool, broker.notifier, batch_max=64, queue_max=1000)
    names = [f"k{n}" for n in range(64)]
    async with second.running():
        for round_ in range(5):
            prepared = [
                (await broker.preparer.prepare(ADA, echo(idempotency_key=f"{round_}{name}")))[0]
                for name in names
            ]
            others = [
                (await broker.preparer.prepare(ADA, echo(idempotency_key=f"{round_}{name}")))[0]
                for name in names
            ]
            done = await asyncio.gather(
                *(broker.intake.accept(call) for call in prepared),
                *(second.accept(call) for call in reversed(others)),
            )
            assert len({one.id for one in done}) == 64
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM commands")
    assert row["n"] == 5 * 64


@pytest.mark.guarantee("ordering:completion")
async def test_only_the_first_command_of_an_ordering_key_is_ready(
    broker: Parts, database: Dsns
) -> None:
    ids = [
        (await accept(broker, echo(str(n), ordering_key="k", idempotency_key=str(n)))).written.id
        for n in range(3)
    ]
    query = "SELECT command_id FROM outbox WHERE status = 'ready' AND kind = 'command'"
    for one in ids:
        assert [row["command_id"] for row in await fetch(database.owner, query)] == [one]
        assert (await claim(broker, one)).proceed
        await finish(broker, one, result={"text": "x"})
        await fetch(database.owner, "DELETE FROM outbox WHERE command_id = $1", one)


async def test_a_held_command_cannot_be_claimed(broker: Parts) -> None:
    await accept(broker, echo("a", ordering_key="k"))
    held = await accept(broker, echo("b", ordering_key="k"))
    refused = await claim(broker, held.written.id)
    assert (refused.proceed, refused.reason) == (False, "not_released")
