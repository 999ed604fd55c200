"""Sagas that wait for each other's ordering keys in a circle: found, and one of them gives way.

A saga keeps each key that it has taken until it is over, so two that take two keys in opposite
order would wait for good. Keys come from arguments and results, so they are not all known at a
saga's start and cannot be taken in one order. A circle does not open by itself: it is found by
looking, also after a crash, and looking costs nothing while no saga that has a key waits for one.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.store import events
from app.commands.store import heads
from app.commands.store.heads import Wait
from app.sagas.definition import StepKind
from app.sagas.state import State, StepState
from app.sagas.store import sagas
from app.sagas.store.sagas import SagaRow

logger = logging.getLogger(__name__)

ACTOR: Final = "clock"


async def break_up(engine: AsyncEngine) -> list[UUID]:
    """Let one saga of each circle give way: the youngest that can be undone is.

    Where all are past their pivots none can be: the youngest lets its keys go that none of its
    commands has, as it needs them for no undo. Returns the sagas and commands that move by this.
    """
    async with engine.connect() as conn:
        waits = await heads.saga_waits(conn)
    woken: list[UUID] = []
    for circle in circles(waits):
        async with engine.begin() as conn:
            woken += await _break(conn, circle)
    return woken


def circles(waits: Iterable[Wait]) -> list[list[UUID]]:
    """Sagas that wait for each other, in circles that have none in common; more may be left."""
    graph: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for wait in waits:
        graph[wait.saga_id].add(wait.owner_id)
    found: list[list[UUID]] = []
    while graph:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[UUID] = error.args[1][1:]
            found.append(circle)
            for one in circle:
                del graph[one]
        else:
            break
    return found


async def _break(conn: AsyncConnection, circle: Sequence[UUID]) -> list[UUID]:
    """One circle, if it is still there: nothing of these sagas moves while they are locked."""
    locked = [await sagas.lock(conn, one) for one in sorted(circle)]
    waits = await heads.saga_waits(conn, among=circle)
    if not circles(waits):
        return []
    found = [saga for saga in locked if saga is not None]
    pivoted = {saga.id: await _pivoted(conn, saga) for saga in found}
    young = [saga for saga in reversed(found) if not pivoted[saga.id]]
    if any(saga.state is not State.RUNNING or saga.stop is not None for saga in young):
        return []  # one of them is about to be undone
    if young:
        await _undo(conn, young[0], waits)
        return [young[0].id]
    return await _let_go(conn, found[-1], waits)


async def _pivoted(conn: AsyncConnection, saga: SagaRow) -> bool:
    kinds = {one["id"]: one["kind"] for one in (saga.plan or {}).get("steps", ())}
    return any(
        kinds.get(row.step) == StepKind.PIVOT and row.state is StepState.SUCCEEDED
        for row in await sagas.steps(conn, saga.id)
    )


async def _undo(conn: AsyncConnection, saga: SagaRow, waits: Sequence[Wait]) -> None:
    wanted = ", ".join(repr(one.ordering_key) for one in waits if one.saga_id == saga.id)
    held = ", ".join(repr(one.ordering_key) for one in waits if one.owner_id == saga.id)
    message = (
        f"It had ordering key {held} and waited for {wanted}, and another saga the other way round;"
        " the younger one gives way. Take keys in one order, or run it again."
    )
    await sagas.ask(conn, saga, stop={"code": "deadlock", "message": message}, closed=True)
    await _audit(conn, saga, "saga.deadlock", waits, {"reason": message})


async def _let_go(conn: AsyncConnection, saga: SagaRow, waits: Sequence[Wait]) -> list[UUID]:
    keys, ready = await heads.release_idle_saga_keys(
        conn, tenant_id=saga.tenant_id, saga_id=saga.id
    )
    if keys:
        await _audit(conn, saga, "saga.keys_let_go", waits, {"keys": keys})
    return ready


async def _audit(
    conn: AsyncConnection,
    saga: SagaRow,
    kind: str,
    waits: Sequence[Wait],
    body: Mapping[str, Any],
) -> None:
    edges = [f"{one.saga_id} waits for {one.owner_id}: {one.ordering_key}" for one in waits]
    logger.warning("sagas waited for each other", extra={"saga_id": str(saga.id), "waits": edges})
    await events.append(
        conn,
        tenant_id=saga.tenant_id,
        kind=kind,
        actor=ACTOR,
        user_id=saga.user_id,
        saga_id=saga.id,
        body={**body, "waits": edges},
    )
