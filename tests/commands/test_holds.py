"""Holds: nothing of one is dispatched from its answer on, others go on, and its end lets all go."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.catalog.policy import ToolPolicy
from app.commands import holds, timeouts
from app.commands.holds import Which, of_call
from app.commands.store import dispatch_record
from app.commands.store.dispatch_claim import LeasedRow, lease_commands
from app.commands.store.dispatch_record import Acked
from app.commands.store.holds import Hold
from app.commands.view import view
from app.edges.parts import Parts
from app.errors import BadRequestError, HeldError, NotFoundError
from devstack.stack import Dsns
from tests.support.calls import EVE, accept, claim, delete, echo, fetch, finish, subject

OLGA = "operator:olga"
AN_HOUR_AGO = """
    UPDATE outbox
       SET created_at = created_at - interval '1 hour',
           available_at = available_at - interval '1 hour'
"""
ALL = Which()
ECHO = Which(tool="probe", method="echo")
KINDS = {
    "tenant": (ALL, {"text": "x"}, "k"),
    "tool": (Which(tool="probe"), {"text": "x"}, None),
    "method": (ECHO, {"text": "x"}, None),
    "key": (Which(ordering_key="k"), {"text": "x"}, "k"),
    "argument": (Which(args_path=("text",), args_value="x"), {"text": "x"}, None),
    "argument of a tool": (Which(tool="probe", args_path=("text",), args_value="x"), {}, None),
}


@pytest.fixture
async def pool(database: Dsns) -> AsyncIterator[asyncpg.Pool]:
    """The relay's."""
    made = await asyncpg.create_pool(database.relay, min_size=1, max_size=4)
    yield made
    await made.close()


async def lease(pool: asyncpg.Pool, batch_max: int = 100) -> list[LeasedRow]:
    return await lease_commands(
        pool, relay="r", batch_max=batch_max, window=10_000, aging_s=60, lease_s=30
    )


async def leased(pool: asyncpg.Pool) -> list[UUID | None]:
    return [one.command_id for one in await lease(pool)]


async def publish(pool: asyncpg.Pool, rows: list[LeasedRow]) -> None:
    acked = [Acked(claimed=one, partition=0, offset=n) for n, one in enumerate(rows)]
    await dispatch_record.published(pool, acked, relay="r", claim_wait_s=60)


async def hold(broker: Parts, which: Which = ECHO, tenant: str = "demo", **more: Any) -> Hold:
    asked: dict[str, Any] = {"effect": "wait", "reason": "mending", "until": None, "actor": OLGA}
    made = await holds.place(broker.database.engine, tenant, which, **(asked | more))
    broker.holds.forget()
    return made.hold


async def release(broker: Parts, one: Hold, reason: str = "mended") -> None:
    await holds.release(broker.database.engine, one.tenant_id, one.id, actor=OLGA, reason=reason)
    broker.holds.forget()


async def ended(broker: Parts, command_id: UUID) -> str:
    return str((await subject(broker, command_id)).state)


async def default_policy(_tool: str, _method: str) -> ToolPolicy:
    return ToolPolicy()


@pytest.mark.guarantee("holds:kept")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_held_waits_and_says_so_others_go_and_its_end_lets_it_go(
    broker: Parts, database: Dsns, pool: asyncpg.Pool, kind: str, when: str
) -> None:
    which, _, key = KINDS[kind]
    placed = await hold(broker, which) if when == "before" else None
    mine = (await accept(broker, echo("x", ordering_key=key))).written.id
    other = (await accept(broker, delete("elsewhere"))).written.id
    theirs = (await accept(broker, echo("x", ordering_key=key), EVE)).written.id
    placed = placed or await hold(broker, which)
    free = {theirs} if kind == "tenant" else {other, theirs}
    assert set(await leased(pool)) == free
    assert await leased(pool) == []
    shown = view(await subject(broker, mine))
    assert shown["waiting_for"] == "held by an operator until it is released: mending"
    assert shown["hold"] == {"hold_id": str(placed.id), "reason": "mending"}
    assert "hold" not in view(await subject(broker, theirs))
    await release(broker, placed)
    assert set(await leased(pool)) == {mine} | ({other} - free)
    assert "hold" not in view(await subject(broker, mine))
    events = await fetch(
        database.owner,
        "SELECT type, actor, body::text FROM audit.events WHERE type LIKE 'hold.%' ORDER BY type",
    )
    assert [(one["type"], one["actor"]) for one in events] == [
        ("hold.placed", OLGA),
        ("hold.released", OLGA),
    ]
    bodies = [orjson.loads(one["body"]) for one in events]
    assert [one["reason"] for one in bodies] == ["mending", "mended"]
    assert {one["hold_id"] for one in bodies} == {str(placed.id)}


@pytest.mark.guarantee("metrics:waits")
async def test_an_operators_hold_is_no_part_of_the_queues_wait(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    placed = await hold(broker)
    await accept(broker, echo("x"))
    assert await leased(pool) == []
    await fetch(database.owner, AN_HOUR_AGO)
    await release(broker, placed)
    [one] = await lease(pool)
    assert datetime.now(UTC) - one.ready_at < timedelta(minutes=1)


@pytest.mark.guarantee("holds:kept")
async def test_a_value_is_found_by_its_path_and_as_what_it_is(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    settings: dict[str, Any] = {"a": [{"b": 1}], "n": None, "t": "1", "y": True}
    paths: dict[tuple[str, ...], tuple[Any, bool]] = {
        ("settings", "a", "0", "b"): (1, True),
        ("settings", "a"): ([{"b": 1}], True),
        ("settings", "n"): (None, True),
        ("settings", "t"): (1, False),
        ("settings", "y"): (1, False),
        ("settings", "absent"): (None, False),
        ("settings", "a", "1"): (None, False),
        ("name", "0"): ("n", False),
        ("settings",): (settings, True),
    }
    args: dict[str, Any] = {"name": "n", "owner": "o", "settings": settings}
    given = "UPDATE commands SET args = $2 WHERE id = $1"
    for n, (path, (value, met)) in enumerate(paths.items()):
        placed = await hold(broker, Which(args_path=path, args_value=value))
        known = of_call([placed], tool="service", method="configure", ordering_key=None, args=args)
        assert (known is not None) == met, path
        one = await accept(broker, delete(f"d{n}"))
        await fetch(database.owner, given, one.written.id, orjson.dumps(args).decode())
        assert (one.written.id not in await leased(pool)) == met, path
        await release(broker, placed)
        await leased(pool)


@pytest.mark.guarantee("holds:kept")
async def test_a_held_head_holds_its_key_and_the_order_stays(
    broker: Parts, pool: asyncpg.Pool
) -> None:
    first = (await accept(broker, echo("x", ordering_key="k"))).written.id
    second = (await accept(broker, echo("y", ordering_key="k"))).written.id
    placed = await hold(broker, Which(args_path=("text",), args_value="x"))
    assert await leased(pool) == []
    await release(broker, placed)
    assert await leased(pool) == [first]
    await finish(broker, first, result={"text": "x"})
    assert await leased(pool) == [second]


@pytest.mark.guarantee("holds:kept")
async def test_a_retry_under_a_hold_waits(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    one = (await accept(broker, echo())).written.id
    await publish(pool, await lease(pool))
    placed = await hold(broker)
    assert (await claim(broker, one)).proceed, "what is dispatched goes on"
    await finish(broker, one, error={"code": "x", "message": "m", "retryable": True})
    assert await ended(broker, one) == "queued"
    await fetch(database.owner, "UPDATE outbox SET available_at = now(), status = 'ready'")
    assert await leased(pool) == []
    await release(broker, placed)
    assert await leased(pool) == [one]


@pytest.mark.guarantee("holds:kept")
async def test_a_held_call_ends_at_its_deadline_and_says_why(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    one = (await accept(broker, echo())).written.id
    await hold(broker, reason="the host is being mended")
    assert await leased(pool) == []
    await fetch(database.owner, "UPDATE commands SET deadline_at = now()")
    relay = await relay_engine(database)
    await timeouts.expire_deadlines(relay, default_policy, grace_s=1)
    await relay.dispose()
    found = await subject(broker, one)
    assert found.state == "timed_out"
    assert found.error is not None
    assert "held by an operator: the host is being mended" in found.error["message"]
    assert await fetch(database.owner, "SELECT 1 FROM outbox WHERE kind = 'command'") == []


@pytest.mark.guarantee("holds:kept")
async def test_a_hold_ends_by_itself_when_its_end_has_come(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    one = (await accept(broker, echo())).written.id
    placed = await hold(broker, until=at)
    told = view(await subject(broker, one))["waiting_for"]
    assert told == f"held by an operator until {at.isoformat().replace('+00:00', 'Z')}: mending"
    assert await holds.expire(broker.database.engine) == 0
    await fetch(database.owner, "UPDATE holds SET until = now()")
    relay = await relay_engine(database)
    assert await holds.expire(relay) == 1
    assert await leased(pool) == [one]
    [event] = await fetch(
        database.owner, "SELECT actor, body::text FROM audit.events WHERE type = 'hold.expired'"
    )
    assert (event["actor"], orjson.loads(event["body"])["hold_id"]) == ("clock", str(placed.id))
    assert await holds.expire(relay) == 0
    with pytest.raises(NotFoundError):
        await release(broker, placed)
    await relay.dispose()


async def relay_engine(database: Dsns) -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    url = database.relay.replace("postgresql://", "postgresql+asyncpg://")
    return create_async_engine(url)


@pytest.mark.guarantee("holds:kept")
async def test_what_a_crash_left_on_hold_is_let_go_by_the_clock(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    one = (await accept(broker, echo())).written.id
    await hold(broker)
    assert await leased(pool) == []
    await fetch(database.owner, "UPDATE holds SET released_at = now() - interval '1 hour'")
    relay = await relay_engine(database)
    assert await holds.expire(relay) == 1
    assert await leased(pool) == [one]
    assert await holds.expire(relay) == 0
    [row] = await fetch(database.owner, "SELECT freed_at FROM holds")
    assert row["freed_at"] is not None
    await relay.dispose()


@pytest.mark.guarantee("holds:kept")
async def test_a_hold_that_refuses_starts_nothing_new_and_finds_what_was_accepted(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    first = await accept(broker, echo(idempotency_key="k"))
    until = datetime.now(UTC) + timedelta(hours=1)
    placed = await hold(broker, effect="refuse", until=until)
    with pytest.raises(HeldError, match=r"held by an operator until 2.*: mending\. Nothing") as met:
        await accept(broker, echo("else"))
    assert met.value.fields["hold_id"] == str(placed.id)
    assert 3500 < met.value.fields["retry_after_s"] <= 3600
    again = await accept(broker, echo(idempotency_key="k"))
    assert (again.written.id, again.replayed) == (first.written.id, True)
    assert await leased(pool) == [], "what was accepted before waits"
    assert len(await fetch(database.owner, "SELECT 1 FROM commands")) == 1
    await release(broker, placed)
    await accept(broker, echo("else"))


@pytest.mark.guarantee("holds:kept")
async def test_of_several_holds_each_keeps_what_it_is_of(broker: Parts, pool: asyncpg.Pool) -> None:
    one = (await accept(broker, echo("x"))).written.id
    first, second = await hold(broker, Which(tool="probe")), await hold(broker)
    assert (await accept(broker, echo("y"))).hold is not None
    await release(broker, first)
    assert await leased(pool) == []
    await release(broker, second)
    assert one in await leased(pool)
    with pytest.raises(NotFoundError):
        await release(broker, second)


@pytest.mark.guarantee("tenancy:rls-forced")
async def test_another_tenants_hold_is_as_one_that_never_was(
    broker: Parts, pool: asyncpg.Pool
) -> None:
    one = (await accept(broker, echo())).written.id
    theirs = await hold(broker, tenant="other")
    assert await leased(pool) == [one]
    with pytest.raises(NotFoundError):
        await holds.release(
            broker.database.engine, "demo", theirs.id, actor=OLGA, reason="not mine"
        )
    assert await holds.in_force(broker.database.engine, "demo") == []
    assert len(await holds.in_force(broker.database.engine, "other")) == 1


@pytest.mark.guarantee("holds:kept")
async def test_a_tenants_rate_is_not_spent_on_what_is_held(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    await fetch(database.owner, "UPDATE tenants SET rate_per_s = 0.0001, rate_burst = 2")
    placed = await hold(broker)
    mine = [(await accept(broker, echo(str(n)))).written.id for n in range(5)]
    other = (await accept(broker, delete())).written.id
    assert await leased(pool) == [other]
    await release(broker, placed)
    assert await leased(pool) == mine[:1], "one of two tokens is left"


@pytest.mark.guarantee("holds:kept")
async def test_a_tenant_has_so_many_holds_at_the_most(
    broker: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "HOLDS_MAX", 2)
    first = await hold(broker)
    await hold(broker)
    with pytest.raises(BadRequestError, match="2 holds"):
        await hold(broker)
    await release(broker, first)
    await hold(broker)
