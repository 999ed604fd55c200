"""Sagas that take the same keys in opposite order: one gives way, and the others go on."""

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.commands.store.heads import Wait
from app.commands.view import view
from app.edges import sagas as edge_sagas
from app.edges.commands import find
from app.postgres.wakeups import Notifier
from app.sagas import deadlocks
from relay.clock import Clock
from tests.sagas.lab import Lab
from tests.sagas.test_adhoc import add
from tests.sagas.test_runs import plan, step
from tests.support.calls import ADA, fetch

TOLD = "SELECT saga_id, type, actor, body FROM audit.events WHERE type = ANY ($1)"
TYPES = ["saga.deadlock", "saga.keys_let_go"]


async def told(lab: Lab) -> list[Any]:
    return await fetch(lab.dsns.owner, TOLD, TYPES)


def crossing(first: str, second: str, *, pivot: bool = False) -> dict[str, Any]:
    """Takes two keys one after the other; with `pivot`, the second past the point of no return."""
    if pivot:
        own: dict[str, Any] = {"kind": "pivot", "compensate": None, "ordering_key": first}
        after: dict[str, Any] = {"kind": "retriable", "compensate": None, "ordering_key": second}
        return plan(step("a", **own), step("b", "a", **after))
    return plan(step("a", ordering_key=first), step("b", "a", ordering_key=second))


async def met(lab: Lab, plans: Sequence[dict[str, Any]]) -> list[UUID]:
    """Run them up to where each waits for the next one's key; the oldest first."""
    ids = [await lab.run(one) for one in plans]
    for one in ids:
        await lab.do(one, "a")
    assert [await lab.waiting(one) for one in ids] == [{}] * len(ids), "each waits"
    return ids


async def broken(lab: Lab) -> None:
    await deadlocks.break_up(lab.relay.engine)
    await lab.turns()


@pytest.mark.guarantee("saga:deadlock")
async def test_the_younger_of_two_that_wait_for_each_other_is_undone_with_the_reason(
    lab: Lab,
) -> None:
    notifier = Notifier(lab.relay.pool, coalesce_ms=5)
    settings = lab.broker.settings
    clock = Clock(lab.relay.engine, lab.relay.pool, notifier, settings, random=Random(1))
    older, younger = await met(lab, [crossing("k", "l"), crossing("l", "k")])
    await clock.tick()
    await lab.turns()
    assert await lab.waiting(older) == {}, "not before the undo"
    await lab.do(younger, "undo a")
    await lab.do(older, "b")
    assert (await lab.saga(older))[0] == "completed"
    assert await lab.saga(younger) == ("compensated", {"a": "compensated", "b": "failed"})
    error = view(await find(lab.broker, ADA, younger))["error"]
    assert error["cause"]["code"] == "deadlock"
    assert "had ordering key 'l' and waited for 'k'" in error["message"]
    [row] = await told(lab)
    assert (row["saga_id"], row["type"], row["actor"]) == (younger, "saga.deadlock", "clock")


@pytest.mark.guarantee("saga:deadlock")
async def test_one_past_its_pivot_goes_on_and_the_older_one_gives_way(lab: Lab) -> None:
    older, younger = await met(lab, [crossing("k", "l"), crossing("l", "k", pivot=True)])
    await broken(lab)
    await lab.do(older, "undo a")
    await lab.do(younger, "b")
    assert (await lab.saga(older))[0] == "compensated"
    assert (await lab.saga(younger))[0] == "completed"


@pytest.mark.guarantee("saga:deadlock")
async def test_where_all_are_past_their_pivots_the_youngest_lets_its_idle_keys_go(
    lab: Lab,
) -> None:
    plans = [crossing("k", "l", pivot=True), crossing("l", "k", pivot=True)]
    older, younger = await met(lab, plans)
    await broken(lab)
    assert set(await lab.waiting(older)) == {"b"}
    await lab.do(older, "b")
    await lab.do(younger, "b")
    for one in (older, younger):
        assert (await lab.saga(one))[0] == "completed"
    [row] = await told(lab)
    assert (row["saga_id"], row["type"]) == (younger, "saga.keys_let_go")
    assert json.loads(row["body"])["keys"] == ["l"]
    left = await fetch(
        lab.dsns.owner,
        "SELECT FROM ordering_heads WHERE saga_id IS NOT NULL OR active_id IS NOT NULL",
    )
    assert left == []


@pytest.mark.guarantee("saga:deadlock")
async def test_of_a_circle_of_three_one_gives_way_once_and_who_only_waits_is_left_alone(
    lab: Lab,
) -> None:
    """The bystander has a key and waits for one of the circle, and nobody waits for it."""
    one, two, three = await met(lab, [crossing("k", "l"), crossing("l", "m"), crossing("m", "k")])
    [bystander] = await met(lab, [crossing("n", "k")])
    await asyncio.gather(*(deadlocks.break_up(lab.relay.engine) for _ in range(3)))
    await broken(lab)
    assert [row["saga_id"] for row in await told(lab)] == [three]
    await lab.do(three, "undo a")
    for ended in (two, one, bystander):
        await lab.do(ended, "b")
        assert (await lab.saga(ended))[0] == "completed"


@pytest.mark.guarantee("saga:deadlock")
async def test_an_ad_hoc_saga_gives_way_too_and_takes_no_more_calls(lab: Lab) -> None:
    [declared] = [await lab.run(crossing("k", "l"))]
    mine = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
    await add(lab, mine, "a", ordering_key="l")
    await lab.do(declared, "a")
    await lab.do(mine, "a")
    await add(lab, mine, "b", ordering_key="k")
    await broken(lab)
    await lab.do(mine, "undo a")
    assert (await lab.saga(mine))[0] == "compensated"
    assert "b" in await lab.waiting(declared)
    saga, _ = await edge_sagas.find(lab.broker, ADA, mine)
    assert (saga.reason or {})["code"] == "deadlock"


@pytest.mark.guarantee("saga:deadlock")
async def test_who_waits_without_a_circle_goes_on_waiting(lab: Lab) -> None:
    first = await lab.run(crossing("k", "l"))
    second = await lab.run(crossing("m", "k"))
    await lab.do(second, "a")
    await broken(lab)
    assert await told(lab) == []
    for name in "ab":
        await lab.do(first, name)
    await lab.do(second, "b")


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
def test_each_circle_is_one_and_without_them_none_is_left(pairs: list[tuple[int, int]]) -> None:
    waits = {(a, b) for a, b in pairs if a != b}
    found = deadlocks.circles(
        Wait(saga_id=UUID(int=a), ordering_key="k", owner_id=UUID(int=b)) for a, b in waits
    )
    gone: set[int] = set()
    for circle in found:
        ids = [one.int for one in circle]
        steps = set(zip(ids, [*ids[1:], ids[0]], strict=True))
        # The order of the circle is that of waits, one way round or the other.
        assert steps <= waits or {(b, a) for a, b in steps} <= waits
        assert not gone & set(ids)
        gone |= set(ids)
    left = {(a, b) for a, b in waits if not {a, b} & gone}
    while leaves := {a for a, _ in left} - {b for _, b in left}:
        left = {(a, b) for a, b in left if a not in leaves}
    assert left == set()
