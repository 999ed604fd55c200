"""Ad hoc sagas: calls that carry a saga_id, committed, aborted, or left alone for too long."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils

from app.edges import commands
from app.edges import sagas as edge_sagas
from app.edges.calls import submit
from app.errors import (
    IdempotencyConflictError,
    InvalidArgumentsError,
    NotFoundError,
    SagaClosedError,
    UnknownToolError,
)
from app.intake.prepare import CallRequest
from tests.sagas.lab import Lab
from tests.sagas.test_runs import CHAIN, FAILED
from tests.support.calls import ADA, BOB, EVE, counts, fetch


def call(saga_id: UUID, name: str, **more: Any) -> CallRequest:
    undo = {"tool": "lab", "method": "undo", "args": {"text": name}}
    values: dict[str, Any] = {"args": {"text": name}, "compensation": undo} | more
    return CallRequest(tool="lab", method="do", saga_id=saga_id, saga_step=name, **values)


async def add(lab: Lab, saga_id: UUID, name: str, **more: Any) -> UUID:
    accepted = await submit(lab.broker, ADA, call(saga_id, name, **more))
    await lab.turns()
    return accepted.written.id


@pytest.mark.guarantee("saga:adhoc")
async def test_a_committed_saga_completes_when_its_steps_have(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await add(lab, saga_id, "b")
    await lab.do(saga_id, "a")
    await edge_sagas.commit(lab.broker, ADA, saga_id)
    await lab.turns()
    assert (await lab.saga(saga_id))[0] == "running", "b is still under way"
    await lab.do(saga_id, "b")
    assert (await lab.saga(saga_id))[0] == "completed"
    with pytest.raises(SagaClosedError, match="completed"):
        await edge_sagas.stop(lab.broker, ADA, saga_id, reason="too late")


@pytest.mark.guarantee("saga:adhoc")
async def test_a_failed_step_undoes_the_others_and_refuses_more(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    first = await add(lab, saga_id, "a", idempotency_key="ka")
    await lab.do(saga_id, "a")
    await add(lab, saga_id, "b")
    await lab.do(saga_id, "b", **FAILED)
    before = await counts(lab.dsns.owner)
    with pytest.raises(SagaClosedError, match="It broke"):
        await add(lab, saga_id, "c")
    with pytest.raises(SagaClosedError):
        await edge_sagas.commit(lab.broker, ADA, saga_id)
    assert await counts(lab.dsns.owner) == before, "a refusal leaves nothing"
    assert await add(lab, saga_id, "a", idempotency_key="ka") == first, "a repeat is answered"
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"


@pytest.mark.guarantee("saga:adhoc")
async def test_an_abort_undoes_what_was_done_and_ends_what_waits(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await lab.do(saga_id, "a")
    b = await add(lab, saga_id, "b")
    await edge_sagas.stop(lab.broker, ADA, saga_id, reason="never mind")
    await edge_sagas.stop(lab.broker, ADA, saga_id, reason="said twice")
    await lab.turns()
    assert (await lab.command(b))["state"] == "cancelled"
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id)) == ("compensated", {"a": "compensated", "b": "failed"})


@pytest.mark.guarantee("saga:idle")
@pytest.mark.parametrize(
    ("on_idle", "state"), [("compensate", "compensated"), ("complete", "completed")]
)
async def test_a_saga_that_is_left_alone_ends_as_it_says(
    lab: Lab, on_idle: str, state: str
) -> None:
    settings = lab.broker.settings.model_copy(update={"saga_on_idle": on_idle})
    lab = replace(lab, broker=replace(lab.broker, settings=settings))
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await lab.do(saga_id, "a")
    await fetch(lab.dsns.owner, "UPDATE sagas SET idle_at = now() WHERE id = $1", saga_id)
    await lab.idle()
    if state == "compensated":
        await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == state


async def test_concurrent_first_calls_make_one_saga_with_each_step_once(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    made = await asyncio.gather(
        *(submit(lab.broker, ADA, call(saga_id, name, idempotency_key=name)) for name in "abcab")
    )
    assert len({one.written.id for one in made}) == 3
    assert set((await lab.saga(saga_id))[1]) == {"a", "b", "c"}


async def test_what_is_refused_leaves_nothing(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a", idempotency_key="k")
    before = await counts(lab.dsns.owner)
    steps = (await lab.saga(saga_id))[1]
    with pytest.raises(SagaClosedError, match="name each step once"):
        await add(lab, saga_id, "a", idempotency_key="k2")
    with pytest.raises(IdempotencyConflictError):
        await add(lab, saga_id, "other", idempotency_key="k")
    with pytest.raises(NotFoundError):
        await submit(lab.broker, BOB, call(saga_id, "b"))
    with pytest.raises(InvalidArgumentsError):
        await add(lab, saga_id, "b", compensation={"tool": "lab", "method": "undo", "args": {}})
    assert await counts(lab.dsns.owner) == before
    with pytest.raises(UnknownToolError):
        await add(lab, saga_id, "b", compensation={"tool": "no", "method": "one", "args": {}})
    assert (await lab.saga(saga_id))[1] == steps


async def test_nobody_adds_to_a_declared_saga_nor_to_another_tenants(lab: Lab) -> None:
    declared = await lab.run(CHAIN)
    with pytest.raises(NotFoundError):
        await add(lab, declared, "x")
    mine = uuid_utils.uuid7()
    await add(lab, mine, "a")
    with pytest.raises((NotFoundError, UnknownToolError)):
        await submit(lab.broker, EVE, call(mine, "x"))


@pytest.mark.guarantee("saga:cancel")
@pytest.mark.parametrize("how", ["cancelled", "timed_out"])
@pytest.mark.parametrize("adapter", ["has none of it", "stops", "falls silent"])
async def test_a_step_that_is_cancelled_or_late_has_the_others_undone_and_itself_where_it_ran(
    lab: Lab, how: str, adapter: str
) -> None:
    """The step's own command: its caller cancels it, or its deadline passes."""
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await lab.do(saga_id, "a")
    b = await add(lab, saga_id, "b")
    taken = adapter != "has none of it"
    if taken:
        assert (await lab.claim(b)).proceed
    if how == "cancelled":
        await commands.cancel(lab.broker, ADA, b, reason="not this one")
    else:
        await fetch(lab.dsns.owner, "UPDATE commands SET deadline_at = now() WHERE id = $1", b)
    await lab.tick()
    if adapter == "stops":  # somewhere on its way
        await lab.finish(b, error={"code": "cancelled", "message": "It stopped."})
    elif taken:  # the grace period ends
        await fetch(lab.dsns.owner, "UPDATE commands SET lease_until = now() WHERE id = $1", b)
        await lab.tick()
    if taken:
        await lab.do(saga_id, "undo b")
    assert (await lab.command(b))["state"] == how
    with pytest.raises(SagaClosedError):
        await add(lab, saga_id, "c")
    await lab.do(saga_id, "undo a")
    steps = {"a": "compensated", "b": "compensated" if taken else "failed"}
    assert await lab.saga(saga_id) == ("compensated", steps)


@pytest.mark.guarantee("saga:idle")
async def test_a_saga_is_not_idle_while_a_step_is_under_way(lab: Lab) -> None:
    saga_id = uuid_utils.uuid7()
    await add(lab, saga_id, "a")
    await fetch(lab.dsns.owner, "UPDATE sagas SET idle_at = now() WHERE id = $1", saga_id)
    await lab.idle()
    assert (await lab.saga(saga_id))[0] == "running"
    await lab.do(saga_id, "a")
    await lab.idle()
    assert (await lab.saga(saga_id))[0] == "running", "its time begins anew"
