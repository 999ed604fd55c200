"""A saga's use cases with a fault at each of their statements: whole, or as if never begun."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.cache import Tools
from app.postgres.engine import tenant_transaction
from app.sagas import conductor, deadlocks, registry, runs
from app.sagas import parse as saga_parse
from app.sagas.store import sagas as saga_rows
from app.sagas.store.sagas import SagaRow
from tests.sagas.lab import Lab
from tests.sagas.test_adhoc import add, call
from tests.sagas.test_deadlocks import crossing, met
from tests.sagas.test_runs import CHAIN, FAILED, plan, step
from tests.support.calls import ADA
from tests.support.calls import claim as claim_call
from tests.support.calls import finish as finish_call
from tests.support.faults import InjectedFaultError, fail_at_each_statement, faulty_pool

EVERYTHING = """
    SELECT (SELECT json_agg(c ORDER BY c.id)::text FROM commands c) AS commands,
           (SELECT json_agg(o ORDER BY o.id)::text FROM outbox o) AS outbox,
           (SELECT json_agg(s ORDER BY s.id)::text FROM sagas s) AS sagas,
           (SELECT json_agg(t ORDER BY t.saga_id, t.position)::text FROM saga_steps t) AS steps,
           (SELECT json_agg(t ORDER BY t.id)::text FROM saga_turns t) AS turns,
           (SELECT json_agg(h ORDER BY h.ordering_key)::text FROM ordering_heads h) AS heads,
           (SELECT count(*) FROM audit.events) AS events
"""


async def look(lab: Lab) -> list[Any]:
    return await lab.owner.fetch(EVERYTHING)


async def turn(lab: Lab, saga_id: UUID) -> int:
    """The saga's turn, broken at each statement, then whole; returns how many it has."""
    tools = Tools(lab.relay.engine, kept_s=5)
    await tools.find("lab", "do")  # its own reading is no part of the turn

    async def advance() -> None:
        await conductor.advance(
            lab.relay.engine, saga_id, tools=tools.find, deadline_s=3600, grace_s=30
        )

    return await fail_at_each_statement(lab.relay.engine, advance, lambda: look(lab))


async def played(lab: Lab, saga_id: UUID, name: str, **said: Any) -> None:
    """An adapter takes what waits for this step and ends it; the turn that comes of it is left."""
    row = (await lab.waiting(saga_id))[name]
    assert (await claim_call(lab.broker, row["id"], attempt=row["attempt"])).proceed
    await finish_call(lab.broker, row["id"], **(said or {"result": {"made": name}}))


@pytest.mark.guarantee("kernel:atomic")
async def test_a_fault_at_any_statement_of_any_turn_leaves_the_turn_to_be_taken_again(
    lab: Lab,
) -> None:
    saga_id = await lab.run(CHAIN)
    steps: list[int] = []
    for name, said in (("a", {}), ("b", {}), ("c", FAILED), ("undo b", {}), ("undo a", {})):
        await played(lab, saga_id, name, **said)
        steps.append(await turn(lab, saga_id))
    assert min(steps) >= 5, "the injector never fired"
    assert (await lab.saga(saga_id))[0] == "compensated"
    assert (await lab.command(saga_id))["state"] == "failed"


@pytest.mark.guarantee("kernel:atomic")
async def test_a_fault_at_any_statement_of_a_turn_that_stops_what_runs_leaves_nothing(
    lab: Lab,
) -> None:
    keyed = step("b", ordering_key="k")
    saga_id = await lab.run(plan(step("a"), keyed, step("c", ordering_key="k")))
    assert (await lab.claim((await lab.waiting(saga_id))["b"]["id"])).proceed
    await played(lab, saga_id, "a", **FAILED)
    assert await turn(lab, saga_id) >= 8
    assert (await lab.saga(saga_id))[0] == "stopping"


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("pivot", [False, True])
async def test_a_fault_while_a_circle_is_broken_leaves_it_for_the_next_look(
    lab: Lab, pivot: bool
) -> None:
    await met(lab, [crossing("k", "l", pivot=pivot), crossing("l", "k", pivot=pivot)])

    async def work() -> None:
        await deadlocks.break_up(lab.relay.engine)

    engine = lab.relay.engine
    assert await fail_at_each_statement(engine, work, lambda: look(lab)) >= 6


Verb = Callable[[AsyncConnection, SagaRow], Awaitable[None]]
ABORT: Verb = partial(runs.abort, actor="user:ada", reason="not wanted")
COMMIT: Verb = partial(runs.close, actor="user:ada")
SETTLE = partial(runs.settle, step="b", actor="operator:olga", reason="looked at it")


async def said(lab: Lab, saga_id: UUID, verb: Verb) -> None:
    """A word on a saga, broken at each statement of its transaction, then whole; and the turn."""
    engine = lab.broker.database.engine

    async def work() -> None:
        async with tenant_transaction(engine, "demo") as conn:
            saga = await saga_rows.lock(conn, saga_id)
            assert saga is not None
            await verb(conn, saga)

    assert await fail_at_each_statement(engine, work, lambda: look(lab)) >= 5
    await turn(lab, saga_id)


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("verb", [ABORT, COMMIT], ids=["abort", "commit"])
async def test_a_fault_at_any_statement_of_a_word_on_an_ad_hoc_saga_leaves_nothing(
    lab: Lab, verb: Verb
) -> None:
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await lab.do(saga_id, "a")
    await said(lab, saga_id, verb)


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize(
    ("verb", "outcome"), [("retry", None), ("skip", None), ("resolve", "compensated")]
)
async def test_a_fault_at_any_statement_of_an_operators_word_leaves_nothing(
    lab: Lab, verb: runs.Verb, outcome: runs.Outcome | None
) -> None:
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "c", **FAILED)
    await played(lab, saga_id, "undo b", **FAILED)
    await turn(lab, saga_id)
    assert (await lab.saga(saga_id))[0] == "compensation_failed"
    await said(lab, saga_id, partial(SETTLE, verb=verb, outcome=outcome))


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("what", ["begin", "first step", "another step"])
async def test_a_fault_at_any_statement_of_an_acceptance_leaves_nothing(
    lab: Lab, what: str
) -> None:
    saga_id = uuid_utils.uuid7()
    if what == "another step":
        await add(lab, saga_id, "a")
    made, _ = await lab.broker.preparer.prepare(ADA, call(saga_id, "b"))
    definition = saga_parse.parse(CHAIN)
    async with faulty_pool(lab.dsns.owner) as (pool, faulty):

        async def work() -> None:
            async with pool.acquire() as conn, conn.transaction():
                if what == "begin":
                    await runs.begin(conn, made, definition, {})
                else:
                    await runs.add(conn, made, on_idle="compensate", idle_timeout_s=60)

        before, at = await look(lab), 0
        for at in range(1, 30):
            faulty.left = at
            try:
                await work()
            except InjectedFaultError:
                assert await look(lab) == before, f"torn write at step {at}"
            else:
                break
        assert at >= 4, "the injector never fired"
        assert await look(lab) != before


@pytest.mark.guarantee("kernel:atomic")
async def test_a_fault_at_any_statement_of_a_registration_leaves_no_definition(lab: Lab) -> None:
    definition = replace(saga_parse.parse(CHAIN), name="chain")
    engine, catalog = lab.broker.database.engine, lab.broker.catalog
    await catalog.visible(ADA)  # its own reading is no part of it

    async def defined() -> list[Any]:
        return await lab.owner.fetch(
            "SELECT name, version, (SELECT count(*) FROM audit.events) AS events"
            " FROM saga_definitions"
        )

    async def work() -> None:
        await registry.register(engine, catalog, ADA, definition)

    assert await fail_at_each_statement(engine, work, defined) >= 4
