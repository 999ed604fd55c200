"""Sagas on a real database, with the test as the adapter: forward, back, and forward only."""

import json
from typing import Any
from uuid import UUID

import pytest

from app.commands.view import view
from app.edges import commands
from app.edges import sagas as edge_sagas
from app.errors import NotCancellableError, NotFoundError
from tests.sagas.lab import Lab
from tests.support.calls import ADA, BOB, accept, echo, fetch


def step(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A step that lab_undo undoes."""
    made: dict[str, Any] = {
        "id": name,
        "tool": "lab_do",
        "args": {"text": name},
        "needs": list(needs),
        "compensate": {"tool": "lab_undo", "args": {"text": name}},
    }
    made |= more
    return {key: value for key, value in made.items() if value is not None}


def plan(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"steps": list(steps), **more}


FAILED: dict[str, Any] = {"error": {"code": "boom", "message": "It broke.", "retryable": False}}
CHAIN = plan(step("a"), step("b", "a"), step("c", "b"))


@pytest.mark.guarantee("saga:forward")
async def test_steps_run_in_the_order_of_their_needs_and_the_result_has_them_all(lab: Lab) -> None:
    diamond = plan(
        step("a"),
        step("b", "a", args={"text": "b of {{ steps.a.result.made }}"}),
        step("c", "a"),
        step("d", "b", "c"),
    )
    saga_id = await lab.run(diamond)
    assert set(await lab.waiting(saga_id)) == {"a"}
    await lab.do(saga_id, "a")
    waiting = await lab.waiting(saga_id)
    assert set(waiting) == {"b", "c"}
    assert "b of a" in waiting["b"]["args"]
    await lab.do(saga_id, "c")
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "d")
    state, steps = await lab.saga(saga_id)
    assert (state, set(steps.values())) == ("completed", {"succeeded"})
    root = await lab.command(saga_id)
    assert root["state"] == "succeeded"
    assert set(view(await commands.find(lab.broker, ADA, saga_id))["result"]["steps"]) == set(
        "abcd"
    )


@pytest.mark.guarantee("saga:undo")
async def test_a_failed_step_has_the_finished_ones_undone_newest_first(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a"), step("b"), step("c", "a", "b")))
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "c", **FAILED)
    waiting = await lab.waiting(saga_id)
    assert set(waiting) == {"undo a"}, "the newest first, and one at a time"
    assert waiting["undo a"]["priority"] == 3
    assert waiting["undo a"]["exempt"]
    await lab.do(saga_id, "undo a")
    assert set(await lab.waiting(saga_id)) == {"undo b"}
    await lab.do(saga_id, "undo b")
    state, steps = await lab.saga(saga_id)
    assert (state, steps) == (
        "compensated",
        {"a": "compensated", "b": "compensated", "c": "failed"},
    )
    ended = view(await commands.find(lab.broker, ADA, saga_id))
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "compensated"
    assert "It broke." in ended["error"]["message"]


@pytest.mark.guarantee("saga:unknown-undone")
async def test_a_step_whose_outcome_is_unknown_is_undone_and_its_key_goes_on(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a", ordering_key="k"), step("b", "a", ordering_key="k")))
    await lab.do(saga_id, "a")
    await lab.lose(saga_id, "b")
    assert (await lab.saga(saga_id))[1]["b"] == "unknown" or (await lab.saga(saga_id))[1][
        "b"
    ] == "compensating"
    await lab.do(saga_id, "undo b")
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"
    [head] = await fetch(lab.dsns.owner, "SELECT * FROM ordering_heads WHERE ordering_key = 'k'")
    assert (head["saga_id"], head["blocked_reason"], head["active_id"]) == (None, None, None)


@pytest.mark.guarantee("saga:unknown-undone")
async def test_a_lost_attempt_is_not_forgotten_when_a_later_one_fails(lab: Lab) -> None:
    """lab_again may be done again, so its lost attempt is retried; the retry fails plainly."""
    saga_id = await lab.run(plan(step("a", tool="lab_again")))
    await lab.lose(saga_id, "a")
    await lab.do(saga_id, "a", **FAILED)
    assert set(await lab.waiting(saga_id)) == {"undo a"}, "the first attempt may have done it"


@pytest.mark.guarantee("saga:reconcile")
@pytest.mark.parametrize(("done", "state"), [(True, "completed"), (False, "compensated")])
async def test_a_reconcile_call_finds_out_what_became_of_a_lost_step(
    lab: Lab, done: bool, state: str
) -> None:
    look = {"tool": "lab_look", "args": {"text": "a"}}
    saga_id = await lab.run(plan(step("a", reconcile=look, ordering_key="k")))
    await lab.lose(saga_id, "a")
    assert set(await lab.waiting(saga_id)) == {"look a"}
    await lab.do(saga_id, "look a", result={"done": done, "result": {"made": "a"}})
    assert (await lab.saga(saga_id))[0] == state


@pytest.mark.guarantee("saga:reconcile")
async def test_a_reconcile_call_that_tells_nothing_leaves_the_step_to_be_undone(lab: Lab) -> None:
    look = {"tool": "lab_look", "args": {"text": "a"}}
    saga_id = await lab.run(plan(step("a", reconcile=look)))
    await lab.lose(saga_id, "a")
    await lab.do(saga_id, "look a", **FAILED)
    assert set(await lab.waiting(saga_id)) == {"undo a"}


@pytest.mark.guarantee("saga:cancel")
async def test_a_cancel_awaits_what_runs_and_undoes_what_was_done(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a"), step("b", "a"), step("c", "a")))
    await lab.do(saga_id, "a")
    b = (await lab.waiting(saga_id))["b"]["id"]
    assert (await lab.claim(b)).proceed
    word = await commands.cancel(lab.broker, ADA, saga_id, reason="never mind")
    assert not word.command.final
    await lab.turns()
    state, steps = await lab.saga(saga_id)
    assert (state, steps["c"]) == ("stopping", "failed"), "what nobody had taken ends at once"
    assert "undo a" not in await lab.waiting(saga_id), "nothing is undone beside what still runs"
    await lab.finish(b, result={"made": "b"})
    await lab.do(saga_id, "undo b")
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"
    assert (await lab.command(saga_id))["state"] == "cancelled"


@pytest.mark.guarantee("saga:deadline")
async def test_the_deadline_of_the_whole_undoes_it_before_the_pivot(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    await fetch(lab.dsns.owner, "UPDATE commands SET deadline_at = now() WHERE id = $1", saga_id)
    await lab.tick()
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"
    assert (await lab.command(saga_id))["state"] == "timed_out"


PIVOTED = plan(
    step("a"),
    step("p", "a", kind="pivot", compensate=None),
    step("r", "p", kind="retriable", compensate=None),
)


@pytest.mark.guarantee("saga:pivot")
async def test_after_the_pivot_neither_cancel_nor_deadline_undoes_anything(lab: Lab) -> None:
    saga_id = await lab.run(PIVOTED)
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "p")
    await commands.cancel(lab.broker, ADA, saga_id, reason="too late")
    await fetch(
        lab.dsns.owner, "UPDATE commands SET deadline_at = now() WHERE saga_id = $1", saga_id
    )
    await lab.tick()
    assert set(await lab.waiting(saga_id)) == {"r"}
    r = (await lab.waiting(saga_id))["r"]["id"]
    with pytest.raises(NotCancellableError):
        await commands.cancel(lab.broker, ADA, r, reason="not this either")
    await lab.do(saga_id, "r")
    assert (await lab.saga(saga_id))[0] == "completed"


@pytest.mark.guarantee("saga:pivot")
async def test_a_pivot_that_is_done_while_the_saga_stops_takes_it_forward(lab: Lab) -> None:
    saga_id = await lab.run(PIVOTED)
    await lab.do(saga_id, "a")
    p = (await lab.waiting(saga_id))["p"]["id"]
    assert (await lab.claim(p)).proceed
    await commands.cancel(lab.broker, ADA, saga_id, reason="just now")
    await lab.turns()
    assert (await lab.saga(saga_id))[0] == "stopping"
    await lab.finish(p, result={"made": "p"})
    assert (await lab.saga(saga_id))[0] == "running"
    await lab.do(saga_id, "r")
    assert (await lab.saga(saga_id))[0] == "completed"


async def settle(lab: Lab, saga_id: UUID, name: str, verb: Any, outcome: Any = None) -> None:
    await edge_sagas.settle(
        lab.broker, ADA, saga_id, step=name, verb=verb, outcome=outcome, reason="by hand"
    )
    await lab.turns()


@pytest.mark.guarantee("saga:operator")
@pytest.mark.parametrize(
    ("verb", "outcome", "state"),
    [("resolve", "succeeded", "completed"), ("resolve", "failed", "compensated")],
)
async def test_a_lost_pivot_waits_for_an_operator_who_says_which_way(
    lab: Lab, verb: str, outcome: str, state: str
) -> None:
    saga_id = await lab.run(plan(step("a"), step("p", "a", kind="pivot", compensate=None)))
    await lab.do(saga_id, "a")
    await lab.lose(saga_id, "p")
    assert (await lab.saga(saga_id))[0] == "stuck"
    assert not (await lab.command(saga_id))["finished_at"], "its caller is not told an end"
    with pytest.raises(NotCancellableError, match="pivot"):
        await settle(lab, saga_id, "p", "skip")
    await settle(lab, saga_id, "p", verb, outcome)
    if state == "compensated":
        await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == state


BESIDE_PIVOT = plan(
    step("a"),
    step("p", "a", kind="pivot", compensate=None),
    step("look", "a", kind="readonly", tool="lab_look", compensate=None),
    step("r", "p", "look", kind="retriable", compensate=None),
)


@pytest.mark.guarantee("saga:operator")
@pytest.mark.parametrize("first", ["p", "look"])
async def test_a_readonly_step_beside_the_pivot_that_fails_is_skipped_by_an_operator(
    lab: Lab, first: str
) -> None:
    """Where it fails first the saga begins to stop, and the pivot takes it forward after all."""
    saga_id = await lab.run(BESIDE_PIVOT)
    await lab.do(saga_id, "a")
    p = (await lab.waiting(saga_id))["p"]["id"]
    assert (await lab.claim(p)).proceed
    if first == "p":
        await lab.finish(p, result={"made": "p"})
    await lab.do(saga_id, "look", **FAILED)
    if first == "look":
        assert (await lab.saga(saga_id))[0] == "stopping"
        await lab.finish(p, result={"made": "p"})
    assert (await lab.saga(saga_id))[0] == "stuck"
    with pytest.raises(NotCancellableError, match="does not wait for it"):
        await settle(lab, saga_id, "p", "skip")
    await settle(lab, saga_id, "look", "skip")
    await lab.do(saga_id, "r")
    state, steps = await lab.saga(saga_id)
    assert (state, steps["look"]) == ("completed", "skipped")
    ended = view(await commands.find(lab.broker, ADA, saga_id))
    assert set(ended["result"]["steps"]) == {"a", "p", "r"}


@pytest.mark.guarantee("saga:operator")
@pytest.mark.parametrize("verb", ["retry", "skip", "resolve"])
async def test_an_undo_that_fails_for_good_waits_for_an_operator(lab: Lab, verb: str) -> None:
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "c", **FAILED)
    await lab.do(saga_id, "undo b", **FAILED)
    assert (await lab.saga(saga_id))[0] == "compensation_failed"
    root = await lab.command(saga_id)
    assert root["state"] == "dead_lettered", "and the caller is told"
    await settle(lab, saga_id, "b", verb, "compensated" if verb == "resolve" else None)
    if verb == "retry":
        await lab.do(saga_id, "undo b")
    await lab.do(saga_id, "undo a")
    state, steps = await lab.saga(saga_id)
    assert (state, steps["a"]) == ("compensated", "compensated")
    assert steps["b"] == ("skipped" if verb == "skip" else "compensated")
    types = await fetch(
        lab.dsns.owner, "SELECT type, actor FROM audit.events WHERE saga_id = $1", saga_id
    )
    assert ("saga.settled", "operator:ada") in {(row["type"], row["actor"]) for row in types}


async def test_an_undo_is_tried_again_before_it_counts_as_failed(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a"), step("b", "a")))
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b", **FAILED)
    again = {"error": {"code": "busy", "message": "not now"}}
    for _ in range(4):
        await lab.do(saga_id, "undo a", **again)
        await lab.tick()
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"


@pytest.mark.guarantee("saga:lock")
async def test_a_key_that_a_saga_has_taken_is_its_own_until_it_is_over(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a", ordering_key="k"), step("b", "a", ordering_key="k")))
    other = (await accept(lab.broker, echo(ordering_key="k"), BOB)).written.id
    await lab.do(saga_id, "a")
    assert (await lab.command(other))["held"], "between two steps nobody gets in"
    assert set(await lab.waiting(saga_id)) == {"b"}
    await lab.do(saga_id, "b", **FAILED)
    assert (await lab.command(other))["held"], "nor before the undo"
    await lab.do(saga_id, "undo a")
    assert not (await lab.command(other))["held"]


@pytest.mark.guarantee("saga:once")
async def test_the_same_call_again_is_the_same_saga(lab: Lab) -> None:
    first = await lab.run(CHAIN, idempotency_key="k1")
    assert await lab.run(CHAIN, idempotency_key="k1") == first
    assert await lab.run(plan(step("z"))) != first
    rows = await fetch(lab.dsns.owner, "SELECT count(*) AS n FROM sagas")
    assert rows[0]["n"] == 2


async def test_a_step_whose_arguments_cannot_be_made_fails_and_the_rest_is_undone(lab: Lab) -> None:
    missing = step("b", "a", args={"text": "{{ steps.a.result.made }}"})
    saga_id = await lab.run(plan(step("a"), missing))
    await lab.do(saga_id, "a", result={"made": {"not": "text"}})
    assert (await lab.saga(saga_id))[1]["b"] == "failed"
    await lab.do(saga_id, "undo a")
    assert (await lab.saga(saga_id))[0] == "compensated"


@pytest.mark.guarantee("saga:audit")
async def test_every_move_of_a_saga_and_its_steps_is_in_the_audit_trail(lab: Lab) -> None:
    saga_id = await lab.run(plan(step("a"), step("b", "a")))
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b", **FAILED)
    await lab.do(saga_id, "undo a")
    rows = await fetch(
        lab.dsns.owner,
        "SELECT type, body FROM audit.events WHERE saga_id = $1 AND type LIKE 'saga.%'"
        " ORDER BY occurred_at",
        saga_id,
    )
    told = [
        (row["type"], (body := json.loads(row["body"])).get("step"), body.get("to")) for row in rows
    ]
    assert told == [
        ("saga.started", None, None),
        ("saga.step", "a", "dispatched"),
        ("saga.step", "a", "succeeded"),
        ("saga.step", "b", "dispatched"),
        ("saga.step", "b", "failed"),
        ("saga.stopping", None, "stopping"),
        ("saga.compensating", None, "compensating"),
        ("saga.step", "a", "compensating"),
        ("saga.step", "a", "compensated"),
        ("saga.compensated", None, "compensated"),
    ]


async def test_a_saga_is_its_users_and_no_adapter_speaks_for_it(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN)
    with pytest.raises(NotFoundError):
        await edge_sagas.find(lab.broker, BOB, saga_id)
    with pytest.raises(NotFoundError):
        await lab.claim(saga_id)
    with pytest.raises(NotFoundError):
        await lab.finish(saga_id, result={})


async def test_only_a_saga_that_waits_takes_an_operators_word(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN)
    with pytest.raises(NotCancellableError, match="waits for no operator"):
        await settle(lab, saga_id, "a", "skip")


@pytest.mark.guarantee("labels:searched")
async def test_steps_and_undos_have_the_labels_of_their_saga(lab: Lab) -> None:
    saga_id = await lab.run(CHAIN, labels=("INC-17",))
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b", **FAILED)
    rows = await fetch(lab.dsns.owner, "SELECT saga_role, labels FROM commands ORDER BY id")
    assert {row["saga_role"] for row in rows} == {"saga", "step", "undo"}
    assert all(row["labels"] == ["INC-17"] for row in rows)
