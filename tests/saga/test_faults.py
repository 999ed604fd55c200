"""Each turn of a saga, and each word on one, with a fault at each statement: whole or not at all."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils

from app import conductor, control, saga_deadlocks, saga_runs
from app.db import commands, sagas
from app.db.engine import tenant_transaction
from app.policy import ToolPolicy
from relay.clock import Toolbox
from tests.faults import fail_at_each_statement
from tests.saga.lab import Lab
from tests.saga.test_adhoc import add
from tests.saga.test_deadlocks import crossing, met
from tests.saga.test_runs import CHAIN, FAILED, plan, step

EVERYTHING = """
    SELECT (SELECT json_agg(s ORDER BY s.id)::text FROM sagas s) AS sagas,
           (SELECT json_agg(t ORDER BY t.saga_id, t.position)::text FROM saga_steps t) AS steps,
           (SELECT json_agg(u ORDER BY u.id)::text FROM saga_turns u) AS turns,
           (SELECT json_agg(c ORDER BY c.id)::text FROM commands c) AS commands,
           (SELECT json_agg(o ORDER BY o.id)::text FROM outbox o) AS outbox,
           (SELECT json_agg(h ORDER BY h.ordering_key)::text FROM ordering_heads h) AS heads,
           (SELECT count(*) FROM audit.events) AS events
"""
Prepare = Callable[[Lab], Awaitable[UUID]]


async def told(lab: Lab, saga_id: UUID, name: str, **said: Any) -> None:
    """An adapter's word without the turn that it leaves."""
    row = (await lab.waiting(saga_id))[name]
    assert (await lab.claim(row["id"], attempt=row["attempt"])).proceed
    await lab.word(row["id"], attempt=row["attempt"], **(said or {"result": {"made": name}}))


async def goes_on(lab: Lab) -> UUID:
    keyed = [step("a", ordering_key="k"), step("b", "a", ordering_key="k"), step("c", "a")]
    saga_id = await lab.run(plan(*keyed))
    await told(lab, saga_id, "a")
    return saga_id


async def stops(lab: Lab) -> UUID:
    """One step failed, and another one runs, whose command is to be cancelled."""
    saga_id = await lab.run(plan(step("a"), step("b")))
    assert (await lab.claim((await lab.waiting(saga_id))["b"]["id"])).proceed
    await told(lab, saga_id, "a", **FAILED)
    return saga_id


async def undoes(lab: Lab) -> UUID:
    saga_id = await lab.run(plan(step("a", ordering_key="k"), step("b", "a", ordering_key="k")))
    await lab.do(saga_id, "a")
    await told(lab, saga_id, "b", **FAILED)
    return saga_id


async def ends(lab: Lab) -> UUID:
    saga_id = await lab.run(plan(step("a", ordering_key="k")))
    await told(lab, saga_id, "a")
    return saga_id


async def fails_to_undo(lab: Lab) -> UUID:
    saga_id = await lab.run(plan(step("a"), step("b", "a")))
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b", **FAILED)
    await told(lab, saga_id, "undo a", **FAILED)
    return saga_id


@pytest.mark.guarantee("saga:atomic")
@pytest.mark.parametrize("prepare", [goes_on, stops, undoes, ends, fails_to_undo])
async def test_a_fault_at_any_statement_of_a_turn_leaves_nothing_of_it(
    lab: Lab, prepare: Prepare
) -> None:
    saga_id = await prepare(lab)
    toolbox = Toolbox(lab.relay.engine)
    assert await toolbox.find("lab", "do"), "it is read before the turn"

    async def turn() -> None:
        await conductor.advance(
            lab.relay.engine, saga_id, tools=toolbox.find, deadline_s=60, grace_s=60
        )

    assert await fail_at_each_statement(lab.relay.engine, turn, lambda: seen(lab)) >= 8


async def seen(lab: Lab) -> list[Any]:
    return await lab.owner.fetch(EVERYTHING)


@pytest.mark.guarantee("saga:atomic")
@pytest.mark.parametrize("pivot", [False, True])
async def test_a_fault_while_a_circle_is_broken_leaves_it_for_the_next_look(
    lab: Lab, pivot: bool
) -> None:
    await met(lab, [crossing("k", "l", pivot=pivot), crossing("l", "k", pivot=pivot)])

    async def work() -> None:
        await saga_deadlocks.break_up(lab.relay.engine)

    assert await fail_at_each_statement(lab.relay.engine, work, lambda: seen(lab)) >= 6


@pytest.mark.guarantee("saga:atomic")
@pytest.mark.parametrize("word", ["cancel", "settle", "commit", "abort"])
async def test_a_fault_at_any_statement_of_a_word_on_a_saga_leaves_nothing_of_it(
    lab: Lab, word: str
) -> None:
    if word in {"commit", "abort"}:
        saga_id = uuid_utils.uuid7()
        await add(lab, saga_id, "a")
    else:
        saga_id = await lab.run(CHAIN)
    if word == "settle":
        await lab.do(saga_id, "a")
        await lab.do(saga_id, "b", **FAILED)
        await lab.do(saga_id, "undo a", **FAILED)
    engine = lab.broker.database.engine
    by = {"actor": "operator:ada", "reason": "x"}

    async def work() -> None:
        async with tenant_transaction(engine, "demo") as conn:
            saga = await sagas.lock(conn, saga_id)
            assert saga is not None
            match word:
                case "cancel":
                    root = await commands.lock(conn, saga_id)
                    assert root is not None
                    await control.cancel(conn, root, policy=ToolPolicy(), grace_s=1, **by)
                case "settle":
                    await saga_runs.settle(conn, saga, step="a", verb="skip", outcome=None, **by)
                case "commit":
                    await saga_runs.close(conn, saga, actor=by["actor"])
                case _:
                    await saga_runs.abort(conn, saga, **by)

    assert await fail_at_each_statement(engine, work, lambda: seen(lab)) >= 5
