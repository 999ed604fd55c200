"""What docs/SAGAS.md says of retries, undos, versions and time-outs, each sentence by itself."""

import json
from typing import Any

import pytest

from app.commands.store.dispatch_claim import lease_commands
from app.edges import sagas as edge_sagas
from app.intake.prepare import CallRequest
from app.sagas import registry
from app.sagas.parse import parse
from tests.sagas.lab import Lab
from tests.sagas.test_runs import CHAIN, FAILED, plan, step
from tests.support.calls import ADA, accept, echo, fetch

AGAIN: dict[str, Any] = {"error": {"code": "busy", "message": "not now"}}
UNDOS = """
    SELECT idempotency_key, saga_step FROM commands
     WHERE saga_id = $1 AND saga_role = 'undo' ORDER BY created_at
"""


@pytest.mark.guarantee("saga:undo")
async def test_a_step_is_tried_as_often_as_it_says_before_anything_is_undone(lab: Lab) -> None:
    steps = [step("a"), step("b", "a", retry={"attempts_max": 3})]
    good, bad = [await lab.run(plan(*steps), idempotency_key=key) for key in ("x", "y")]
    for saga_id in (good, bad):
        await lab.do(saga_id, "a")
        for _ in range(2):
            await lab.do(saga_id, "b", **AGAIN)
            await lab.tick()
            assert set(await lab.waiting(saga_id)) == {"b"}
    await lab.do(good, "b")
    assert (await lab.saga(good))[0] == "completed"
    await lab.do(bad, "b", **AGAIN)
    assert set(await lab.waiting(bad)) == {"undo a"}


@pytest.mark.guarantee("saga:undo")
async def test_each_undo_has_a_key_of_its_own_and_no_deadline(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "c", **FAILED)
    late = "UPDATE commands SET deadline_at = now() - interval '1 hour' WHERE saga_id = $1"
    for name in ("undo b", "undo a"):
        await fetch(lab.dsns.owner, late, saga_id)
        await lab.tick()
        await lab.do(saga_id, name)
    assert (await lab.saga(saga_id))[0] == "compensated"
    undos = await fetch(lab.dsns.owner, UNDOS, saga_id)
    assert [row["saga_step"] for row in undos] == ["b", "a"]
    keys = {row["idempotency_key"] for row in undos}
    assert keys == {f"saga:{saga_id}:b:2", f"saga:{saga_id}:a:2"}


@pytest.mark.guarantee("saga:undo")
async def test_an_undo_goes_past_its_tenants_rate_and_windows_and_before_other_work(
    lab: Lab,
) -> None:
    saga_id = await lab.run(plan(step("a"), step("b", "a")))
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b", **FAILED)
    undo = (await lab.waiting(saga_id))["undo a"]["id"]
    other = (await accept(lab.broker, echo("other", priority="critical"))).written.id
    limits = "UPDATE tenants SET rate_per_s = 0.000001, rate_burst = 1, in_flight_max = 1"
    await fetch(lab.dsns.owner, limits)
    await fetch(
        lab.dsns.owner,
        "INSERT INTO tenant_budgets (tenant_id, tokens) VALUES ('demo', 0)"
        " ON CONFLICT (tenant_id) DO UPDATE SET tokens = 0",
    )
    claimed = await lease_commands(
        lab.relay.pool, relay="r", batch_max=9, window=1, aging_s=60, lease_s=60
    )
    assert [one.command_id for one in claimed] == [undo], f"and not {other}"


@pytest.mark.guarantee("saga:versions")
async def test_a_saga_that_runs_keeps_the_version_that_it_began_with(lab: Lab) -> None:
    engine, catalog = lab.broker.database.engine, lab.broker.catalog

    async def register(*steps: dict[str, Any]) -> None:
        definition = parse({"name": "kept", **plan(*steps)})
        await registry.register(engine, catalog, ADA, definition)

    await register(step("a"), step("b", "a"))
    request = CallRequest(tool="saga", method="run", args={"name": "kept"})
    first = (
        await edge_sagas.run(lab.broker, ADA, edge_sagas.Which(name="kept"), request)
    ).written.id
    await lab.turns()
    await lab.do(first, "a")
    changed = {"tool": "lab_undo", "args": {"text": "another way"}}
    await register(step("a", compensate=changed), step("other", "a"))
    await lab.do(first, "b", **FAILED)
    undo = (await lab.waiting(first))["undo a"]
    assert json.loads(undo["args"]) == {"text": "a"}
    saga, steps = await edge_sagas.find(lab.broker, ADA, first)
    assert (saga.version, [one.step for one in steps]) == (1, ["a", "b"])


@pytest.mark.guarantee("saga:unknown-undone")
@pytest.mark.parametrize("taken", [True, False])
async def test_a_steps_own_timeout_undoes_the_others_and_itself_where_it_was_begun(
    lab: Lab, taken: bool
) -> None:
    saga_id = await lab.run(plan(step("a"), step("b", "a", timeout_s=7)))
    await lab.do(saga_id, "a")
    b = (await lab.waiting(saga_id))["b"]["id"]
    row = await lab.command(b)
    assert (row["deadline_at"] - row["created_at"]).total_seconds() == 7
    if taken:
        assert (await lab.claim(b)).proceed
    await fetch(lab.dsns.owner, "UPDATE commands SET deadline_at = now() WHERE id = $1", b)
    await lab.tick()
    if taken:
        assert await lab.waiting(saga_id) == {}, "what runs is asked to stop, and awaited"
        await fetch(lab.dsns.owner, "UPDATE commands SET lease_until = now() WHERE id = $1", b)
        await lab.tick()
        await lab.do(saga_id, "undo b")
    await lab.do(saga_id, "undo a")
    steps = {"a": "compensated", "b": "compensated" if taken else "failed"}
    assert await lab.saga(saga_id) == ("compensated", steps)
