"""Reports in batches: each is answered as it would be by itself, and fails alone."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from app.catalog.redaction import NO_SECRETS
from app.commands import results
from app.commands.report import Answer, Kind, Report
from app.edges.parts import Parts
from app.errors import BrokerError, ContradictionError, NotBoundError, NotFoundError
from app.identity import Identity
from devstack.stack import Dsns
from tests.support.calls import ADAPTER, EVE, accept, echo, fetch, policy_of, state_of

ROWS = """
    SELECT state, attempt, adapter IS NOT NULL AS claimed, lease_until IS NOT NULL AS leased, stage,
           percent, message, progress_seq, result::text, error::text,
           finished_at IS NOT NULL AS over, held, dedupe_key IS NOT NULL AS dedupe
      FROM commands WHERE id = $1
"""
EVENTS = """
    SELECT type, actor, attempt, state_from, state_to, (body::jsonb - 'pause_s')::text
      FROM audit.events WHERE command_id = $1 AND type <> 'command.accepted'
     ORDER BY occurred_at, event_id
"""
OUTBOX = """
    SELECT kind, topic, attempt, status, (payload::jsonb - 'finished_at' - 'correlation_id'
           - 'ordering_key')::text
      FROM outbox WHERE command_id = $1 ORDER BY id
"""


def report(kind: Kind, command_id: UUID, *, adapter: Identity = ADAPTER, **more: Any) -> Report:
    values: dict[str, Any] = {"attempt": 1} | ({"run": "run-1"} if kind is Kind.CLAIM else {})
    return Report(kind=kind, adapter=adapter, command_id=command_id, **(values | more))


async def all_of(broker: Parts, reports: Sequence[Report]) -> list[Answer | BaseException]:
    """Report all at once, as adapters that speak at the same time do."""
    found = await asyncio.gather(
        *(broker.reports.report(one) for one in reports), return_exceptions=True
    )
    assert all(isinstance(one, Answer | BrokerError) for one in found), found
    return found


async def kept(database: Dsns, command_id: UUID) -> list[list[tuple[Any, ...]]]:
    """What the tables hold of a command."""
    found = [await fetch(database.owner, query, command_id) for query in (ROWS, EVENTS, OUTBOX)]
    return [[tuple(row.values()) for row in rows] for rows in found]


SCRIPTS: dict[str, list[dict[str, Any]]] = {
    "done": [
        {"kind": Kind.CLAIM},
        {"kind": Kind.PROGRESS, "stage": "half", "percent": 50.0, "message": "so far 🎉"},
        {"kind": Kind.RESULT, "result": {"text": "done", "": [1, None]}},
    ],
    "failed": [
        {"kind": Kind.CLAIM},
        {"kind": Kind.RESULT, "error": {"code": "x", "message": "no", "retryable": False}},
    ],
    "may be retried": [
        {"kind": Kind.CLAIM},
        {"kind": Kind.RESULT, "error": {"code": "x", "message": "no"}},
    ],
    "never claimed": [{"kind": Kind.RESULT, "result": None}],
    "progress first": [
        {"kind": Kind.PROGRESS, "stage": "working"},
        {"kind": Kind.RESULT, "result": 1, "attempt": None},
    ],
    "stale": [{"kind": Kind.CLAIM}, {"kind": Kind.RESULT, "result": 1, "attempt": 2}],
    "rejected": [{"kind": Kind.REJECT, "reason": "no rule"}],
    "twice": [
        {"kind": Kind.CLAIM},
        {"kind": Kind.CLAIM},
        {"kind": Kind.CLAIM, "run": "another"},
        {"kind": Kind.RESULT, "result": [1]},
        {"kind": Kind.RESULT, "result": [1]},
        {"kind": Kind.RESULT, "result": [2]},
        {"kind": Kind.PROGRESS, "stage": "late"},
    ],
}


@pytest.mark.guarantee("report:alone")
@pytest.mark.parametrize("keyed", [False, True], ids=["", "keyed"])
async def test_a_batch_answers_and_writes_as_single_reports_do(
    broker: Parts, database: Dsns, *, keyed: bool
) -> None:
    """Each script alone, report by report, against all scripts at once, step by step."""

    async def started() -> dict[str, UUID]:
        made: dict[str, UUID] = {}
        for name in SCRIPTS:
            key = {"ordering_key": f"{name} {uuid4()}"} if keyed else {}
            made[name] = (await accept(broker, echo(f"{name} {uuid4()}", **key))).written.id
        return made

    alone, together = await started(), await started()
    answers: dict[str, list[Any]] = {}
    for name, script in SCRIPTS.items():
        asked = [report(command_id=alone[name], **one) for one in script]
        answers[name] = [told(await single(broker, one)) for one in asked]
    for n in range(max(map(len, SCRIPTS.values()))):
        names = [name for name, script in SCRIPTS.items() if n < len(script)]
        asked = [report(command_id=together[name], **SCRIPTS[name][n]) for name in names]
        found = await all_of(broker, asked)
        assert [told(one) for one in found] == [answers[name][n] for name in names]
    for name in SCRIPTS:
        assert await kept(database, alone[name]) == await kept(database, together[name]), name


async def single(broker: Parts, one: Report) -> Answer | BrokerError:
    """A report in a transaction of its own, past every batch."""
    try:
        done = await results.apply(
            broker.database.engine,
            one,
            policy=await policy_of(broker, one.command_id),
            hidden=NO_SECRETS,
            leases=broker.leases,
            random=Random(1),
        )
    except BrokerError as error:
        return error
    return done.answer


def told(answer: Answer | BaseException) -> tuple[Any, ...]:
    """An answer without what differs from command to command."""
    if isinstance(answer, BrokerError):
        return answer.status, answer.code
    assert isinstance(answer, Answer)
    own = {"correlation_id", "args", "deadline_at", "left_s", "ordering_key", "misfit"}
    body = orjson.loads(orjson.dumps(answer.body))
    return answer.status, {name: value for name, value in body.items() if name not in own}


@pytest.mark.guarantee("report:alone")
async def test_a_report_that_cannot_be_kept_fails_alone(broker: Parts, database: Dsns) -> None:
    ids = [(await accept(broker, echo(str(n)))).written.id for n in range(40)]
    await all_of(broker, [report(Kind.CLAIM, one) for one in ids])
    bad = ids[17]
    found = await all_of(
        broker,
        [report(Kind.RESULT, one, result={"n": "\x00" if one == bad else "fine"}) for one in ids],
    )
    for one, answer in zip(ids, found, strict=True):
        if one == bad:
            assert isinstance(answer, BrokerError)
            assert answer.code == "unprocessable_report"
        else:
            assert isinstance(answer, Answer), answer
            assert answer.body["state"] == "succeeded"
        assert await state_of(database.owner, one) == ("running" if one == bad else "succeeded")


async def test_the_reports_of_one_command_are_applied_in_their_order(
    broker: Parts, database: Dsns
) -> None:
    ids = [(await accept(broker, echo(str(n)))).written.id for n in range(20)]
    asked = [
        one
        for name in ids
        for one in (
            report(Kind.CLAIM, name),
            report(Kind.PROGRESS, name, stage="one"),
            report(Kind.PROGRESS, name, stage="two"),
            report(Kind.RESULT, name, result={"text": "done"}),
        )
    ]
    found = await all_of(broker, asked)
    assert all(isinstance(one, Answer) and one.status == 200 for one in found), found
    for name in ids:
        said = await fetch(
            database.owner, "SELECT stage FROM progress WHERE command_id = $1 ORDER BY seq", name
        )
        assert [row["stage"] for row in said] == ["one", "two"]
        assert await state_of(database.owner, name) == "succeeded"


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_a_batch_holds_no_report_for_whom_its_adapter_may_not_speak(broker: Parts) -> None:
    mine = (await accept(broker, echo())).written.id
    theirs = (await accept(broker, echo("x"), who=EVE)).written.id
    bound = Identity(tenant_id="x", user_id="x", client_id="x", tenants=frozenset({"demo"}))
    narrow = Identity(tenant_id="x", user_id="x", client_id="x", tools=("git/*",))
    named = ("demo", "probe", "echo")
    found = await all_of(
        broker,
        [
            report(Kind.CLAIM, theirs, adapter=bound),
            report(Kind.CLAIM, uuid4(), adapter=bound),
            report(Kind.CLAIM, mine, adapter=narrow),
            report(Kind.CLAIM, theirs, adapter=bound, named=named, run="forged"),
            report(Kind.CLAIM, mine, adapter=bound, named=named),
        ],
    )
    assert [type(one) for one in found] == [
        NotBoundError,
        NotFoundError,
        NotBoundError,
        NotBoundError,
        Answer,
    ]


@pytest.mark.guarantee("claim:fenced")
@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_claim_for_another_tenant_tool_or_method_is_refused_and_audited(
    broker: Parts, database: Dsns, part: int
) -> None:
    """A forged event with the id of a real pending command must not run for it."""
    one = (await accept(broker, echo())).written.id
    named = ["demo", "probe", "echo"]
    named[part] = ["other", "git", "delete"][part]
    [answer] = await all_of(broker, [report(Kind.CLAIM, one, named=(named[0], named[1], named[2]))])
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body["reason"]) == (409, "claim_mismatch")
    [event] = await fetch(
        database.owner,
        "SELECT body FROM audit.events WHERE command_id = $1 AND type = 'claim.refused'",
        one,
    )
    assert "claim_mismatch" in event["body"]
    [answer] = await all_of(broker, [report(Kind.CLAIM, one, named=("demo", "probe", "echo"))])
    assert isinstance(answer, Answer)
    assert answer.body["proceed"]


@pytest.mark.guarantee("result:first-word-wins")
async def test_a_repeated_report_is_answered_alike_and_writes_nothing(
    broker: Parts, database: Dsns
) -> None:
    """Also of an error after which the command was tried again, and of a cancel's answer."""
    one = (await accept(broker, echo("again"))).written.id
    await fetch(database.owner, "UPDATE commands SET attempts_max = 3 WHERE id = $1", one)
    error = {"code": "busy", "message": "come back", "retryable": True}
    await all_of(broker, [report(Kind.CLAIM, one)])
    [first] = await all_of(broker, [report(Kind.RESULT, one, error=error)])
    before = await kept(database, one)
    [second] = await all_of(broker, [report(Kind.RESULT, one, error=error)])
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (second.status, second.body["state"]) == (first.status, first.body["state"])
    assert second.body["repeated"]
    assert await kept(database, one) == before
    [other] = await all_of(broker, [report(Kind.RESULT, one, error={"code": "another"})])
    assert isinstance(other, BrokerError)

    two = (await accept(broker, echo("stop"))).written.id
    await all_of(broker, [report(Kind.CLAIM, two)])
    await fetch(
        database.owner,
        "UPDATE commands SET cancel_requested_at = now(), cancel_target = 'cancelled'"
        " WHERE id = $1",
        two,
    )
    stopped = {"code": "cancelled", "message": "stopped as asked"}
    await all_of(broker, [report(Kind.RESULT, two, error=stopped)])
    assert await state_of(database.owner, two) == "cancelled"
    before = await kept(database, two)
    [again] = await all_of(broker, [report(Kind.RESULT, two, error=stopped)])
    assert isinstance(again, Answer)
    assert again.body["repeated"]
    assert await kept(database, two) == before
    [late] = await all_of(broker, [report(Kind.RESULT, two, result=1)])
    assert isinstance(late, ContradictionError)


@pytest.mark.guarantee("mcp:answers-fit")
async def test_a_result_that_does_not_fit_is_told_to_its_adapter_or_refused(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo("fits"))).written.id
    [fits] = await all_of(broker, [report(Kind.RESULT, one, result={"text": "fits"})])
    assert isinstance(fits, Answer)
    assert "misfit" not in fits.body
    two = (await accept(broker, echo("flagged"))).written.id
    [flagged] = await all_of(broker, [report(Kind.RESULT, two, result={"text": 1})])
    assert isinstance(flagged, Answer)
    assert flagged.body["state"] == "succeeded", "the work was done"
    assert flagged.body["misfit"].startswith("/text: ")
    await fetch(
        database.owner,
        "UPDATE tools SET policy = policy || '{\"on_misfit\": \"refuse\"}', digest = '\\x01'"
        " WHERE tool = 'probe' AND method = 'echo'",
    )
    broker.catalog.forget()
    three = (await accept(broker, echo("refused"))).written.id
    [refused] = await all_of(broker, [report(Kind.RESULT, three, result={"text": 1})])
    assert isinstance(refused, BrokerError)
    assert (refused.status, refused.code) == (422, "unprocessable_report")
    assert await state_of(database.owner, three) == "queued"
