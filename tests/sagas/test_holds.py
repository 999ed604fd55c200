"""A saga under an operator's hold: its steps and its undos wait as any call does."""

from uuid import UUID

import pytest

from app.commands import holds
from app.commands.holds import Which
from app.commands.store.dispatch_claim import lease_commands
from tests.sagas.lab import Lab
from tests.sagas.test_runs import CHAIN, FAILED


@pytest.mark.guarantee("holds:kept")
async def test_steps_and_undos_wait_for_a_hold_as_any_call(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    engine = lab.broker.database.engine
    which = {"effect": "wait", "reason": "r", "until": None, "actor": "operator:olga"}
    placed = await holds.place(engine, "demo", Which(tool="lab"), **which)  # pyright: ignore[reportArgumentType]
    assert placed.queued == 1
    assert await leased(lab) == [], "the step"
    await lab.do(saga_id, "b", **FAILED)
    assert set(await lab.waiting(saga_id)) == {"undo a"}
    assert await leased(lab) == [], "the undo"
    await holds.release(engine, "demo", placed.hold.id, actor="operator:olga", reason="mended")
    assert len(await leased(lab)) == 1
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"


async def leased(lab: Lab) -> list[UUID | None]:
    rows = await lease_commands(
        lab.relay.pool, relay="r", batch_max=9, window=9, aging_s=60, lease_s=30
    )
    return [one.command_id for one in rows]
