"""What adapters say: fenced, idempotent, and whole at every fault."""

import asyncio
from collections import Counter

import orjson
import pytest

from app.commands import results
from app.commands.report import Kind, Report
from app.edges.parts import Parts
from app.errors import ContradictionError, NotFoundError, StaleAttemptError
from app.identity import Identity
from devstack.stack import Dsns
from tests.support.calls import (
    ADAPTER,
    accept,
    claim,
    counts,
    delete,
    echo,
    fetch,
    finish,
    policy_of,
    redrive,
    state_of,
)


@pytest.mark.guarantee("audit:words-bounded")
@pytest.mark.parametrize("alone", [True, False], ids=["by itself", "in a batch"])
async def test_a_large_error_is_in_the_trail_by_its_beginning(
    broker: Parts, database: Dsns, alone: bool
) -> None:
    """At each attempt, at its end and at each late report; the command has all of it."""
    error = {"code": "x" * 2000, "message": "m" * (2 << 20), "trace": "t" * (1 << 20)}
    one = (await accept(broker, delete())).written.id
    for attempt in (1, 2, 3):
        assert (await claim(broker, one, attempt=attempt)).proceed
        if alone:
            await finish(broker, one, attempt=attempt, error=error)
        else:
            report = Report(
                kind=Kind.RESULT, adapter=ADAPTER, command_id=one, attempt=attempt, error=error
            )
            await broker.reports.report(report)
    again = await finish(broker, one, attempt=1, error=error)
    assert again.repeated, "what was said before is known again"
    for _ in range(3):
        with pytest.raises(ContradictionError):
            await finish(broker, one, attempt=3, error={**error, "message": "n" * (3 << 20)})
    rows = await fetch(
        database.owner,
        "SELECT type, octet_length(body::text) AS size, body -> 'error' ->> 'message' AS message"
        "  FROM audit.events WHERE body -> 'error' ->> 'message' IS NOT NULL",
    )
    kinds = Counter(row["type"] for row in rows)
    assert kinds == {"command.retry": 2, "command.dead_lettered": 1, "result.late": 3}
    assert all(row["message"][:9] in {"m" * 9, "n" * 9} and row["size"] < 4096 for row in rows)
    [row] = await fetch(database.owner, "SELECT error FROM commands WHERE id = $1", one)
    assert orjson.loads(row["error"]) == error
    other = (await accept(broker, echo())).written.id
    assert (await claim(broker, other)).proceed
    await broker.reports.report(
        Report(kind=Kind.RESULT, adapter=ADAPTER, command_id=other, attempt=1, error=error)
    )
    [row] = await fetch(
        database.owner,
        "SELECT octet_length(body::text) AS size, body FROM audit.events"
        " WHERE command_id = $1 AND body -> 'error' ->> 'message' IS NOT NULL",
        other,
    )
    assert row["size"] < 4096
    assert orjson.loads(row["body"])["error"]["bytes"] > 3 << 20


@pytest.mark.guarantee("claim:fenced")
async def test_one_run_gets_the_attempt_and_a_redelivery_does_not(broker: Parts) -> None:
    one = (await accept(broker, echo())).written.id
    assert (await claim(broker, one, run="a")).proceed
    assert (await claim(broker, one, run="a")).proceed, "the same run, its answer was lost"
    assert (await claim(broker, one, run="b")).reason == "already_claimed"
    assert (await claim(broker, one, run="b", attempt=2)).reason == "stale_attempt"


@pytest.mark.guarantee("audit:words-bounded")
async def test_refused_words_without_end_are_few_events_and_their_number(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id
    assert (await claim(broker, one, run="a")).proceed
    for n in range(60):
        assert (await claim(broker, one, run=f"b{n}")).reason == "already_claimed"
    await finish(broker, one, result={"text": "x"})
    for _ in range(10):
        with pytest.raises(ContradictionError):
            await finish(broker, one, error={"message": "no"})
    rows = await fetch(
        database.owner,
        "SELECT type, CAST(body ->> 'nth' AS integer) AS nth FROM audit.events"
        " WHERE type IN ('claim.refused', 'result.late') ORDER BY occurred_at, xid",
    )
    assert [row["nth"] for row in rows] == [*range(1, 21), 32, 64]
    assert [row["type"] for row in rows][-2:] == ["claim.refused", "result.late"]
    [row] = await fetch(database.owner, "SELECT reports_rejected FROM commands WHERE id = $1", one)
    assert row["reports_rejected"] == 70


@pytest.mark.guarantee("claim:fenced")
async def test_of_twenty_concurrent_claims_one_proceeds(broker: Parts) -> None:
    one = (await accept(broker, echo())).written.id
    claims = await asyncio.gather(*(claim(broker, one, run=f"r{n}") for n in range(20)))
    assert sum(each.proceed for each in claims) == 1


async def test_the_claim_brings_the_arguments(broker: Parts) -> None:
    one = (await accept(broker, echo("secret"))).written.id
    assert (await claim(broker, one)).command.args == {"text": "secret"}


@pytest.mark.guarantee("result:first-word-wins")
async def test_a_repeated_result_is_the_same_answer_and_a_contradiction_is_recorded(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id
    assert not (await finish(broker, one, result={"text": "x"})).repeated
    before = await counts(database.owner)
    assert (await finish(broker, one, result={"text": "x"})).repeated
    assert await counts(database.owner) == before
    with pytest.raises(ContradictionError):
        await finish(broker, one, error={"message": "no"})
    late = await fetch(database.owner, "SELECT * FROM audit.events WHERE type = 'result.late'")
    assert len(late) == 1
    assert await state_of(database.owner, one) == "succeeded"


async def test_an_adapter_that_never_claims_may_just_report(broker: Parts, database: Dsns) -> None:
    one = (await accept(broker, echo())).written.id
    policy = await policy_of(broker, one)
    word = await results.progress(
        broker.database.engine,
        adapter=ADAPTER,
        policy=policy,
        command_id=one,
        attempt=None,
        stage="half",
        percent=50,
        message=None,
        leases=broker.leases,
    )
    assert not word.cancel_requested
    assert await state_of(database.owner, one) == "running"
    await finish(broker, one, result={"text": "x"})
    assert await state_of(database.owner, one) == "succeeded"


@pytest.mark.guarantee("retry:attempts")
async def test_errors_are_retried_until_the_attempts_are_used_up_then_dead_lettered(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id  # the catalog gives probe.echo 3 attempts
    for attempt in (1, 2):
        await finish(broker, one, attempt=attempt, error={"message": "boom"})
        assert await state_of(database.owner, one) == "queued"
        with pytest.raises(StaleAttemptError):
            await finish(broker, one, attempt=attempt, result={"text": "late"})
    await finish(broker, one, attempt=3, error={"message": "boom"})
    assert await state_of(database.owner, one) == "dead_lettered"
    kinds = await fetch(database.owner, "SELECT kind FROM outbox ORDER BY id")
    assert [row["kind"] for row in kinds] == ["result", "deadletter"]


@pytest.mark.guarantee("retry:attempts")
async def test_a_pause_of_less_than_a_second_is_a_pause(broker: Parts, database: Dsns) -> None:
    one = (await accept(broker, echo())).written.id
    await finish(broker, one, attempt=1, error={"message": "boom"})
    [row] = await fetch(
        database.owner,
        "SELECT status, available_at > created_at + interval '0.4 s' AS later FROM outbox",
    )
    assert (row["status"], row["later"]) == ("delayed", True)


@pytest.mark.guarantee("retry:attempts")
async def test_a_redriven_dead_letter_pauses_as_a_new_one_not_as_its_last_attempt(
    broker: Parts, database: Dsns
) -> None:
    """Else each redrive begins at the longest pause, and holds up its key for as long."""
    one = (await accept(broker, echo())).written.id
    policy = await policy_of(broker, one)
    for attempt in range(1, 8):
        await finish(broker, one, attempt=attempt, error={"message": "boom"})
        if attempt % policy.retry.attempts_max == 0:
            await redrive(broker, one, policy=policy)
    pauses = await fetch(
        database.owner,
        "SELECT (body ->> 'pause_s')::float8 AS s FROM audit.events"
        " WHERE type = 'command.retry' ORDER BY occurred_at",
    )
    assert len(pauses) == 5
    assert pauses[4]["s"] <= policy.retry.backoff_s


async def test_an_error_marked_not_retryable_ends_it(broker: Parts, database: Dsns) -> None:
    one = (await accept(broker, echo())).written.id
    await finish(broker, one, error={"message": "boom", "retryable": False})
    assert await state_of(database.owner, one) == "failed"


@pytest.mark.guarantee("ordering:completion")
async def test_a_retry_keeps_its_place_before_the_next_of_its_key(
    broker: Parts, database: Dsns
) -> None:
    first = (await accept(broker, delete("a", ordering_key="k"))).written.id
    second = (await accept(broker, delete("b", ordering_key="k"))).written.id
    await finish(broker, first, attempt=1, error={"message": "boom"})
    assert (await claim(broker, second)).reason == "not_released"
    assert (await claim(broker, first, attempt=2)).proceed
    await finish(broker, first, attempt=2, result={"path": "a", "deleted": True})
    assert (await claim(broker, second)).proceed


async def test_an_adapter_bound_to_another_tenant_or_tool_finds_nothing(broker: Parts) -> None:
    one = (await accept(broker, echo())).written.id
    for bound in (
        Identity(tenant_id="x", user_id="x", client_id="x", tenants=frozenset({"other"})),
        Identity(tenant_id="x", user_id="x", client_id="x", tools=("git/*",)),
    ):
        with pytest.raises(NotFoundError):
            await broker.reports.report(
                Report(kind=Kind.CLAIM, adapter=bound, command_id=one, attempt=1, run="r")
            )
