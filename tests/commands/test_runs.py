"""What an executor says of runs that it has started elsewhere, and which of it counts."""

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.commands.report import Kind, Report
from app.commands.view import view
from app.edges.parts import Parts
from app.errors import UnavailableError
from devstack.stack import Dsns
from tests.support.calls import ADAPTER, accept, claim, fetch, finish, subject
from tests.support.offers import call, offer, put

GONE: dict[str, Any] = {"code": "job_failed", "message": "No image.", "retryable": False}
LOST: dict[str, Any] = {"code": "job_failed", "message": "The node is gone."}
TRIED: dict[str, Any] = {"retry": {"attempts_max": 3, "backoff_s": 0.01}}
PUBLISHED = """
    UPDATE commands SET state = 'dispatched', dispatched_at = now(),
                        lease_until = now() + interval '5 s'
     WHERE id = $1
"""


async def dispatched(
    broker: Parts, database: Dsns, home: Path, policy: dict[str, Any] | None = None
) -> UUID:
    """A call that Kafka has."""
    await put(database, home, offer(policy or TRIED), broker=broker)
    made = (await accept(broker, call())).written.id
    await execute(database.owner, PUBLISHED, made)
    await execute(database.owner, "DELETE FROM outbox WHERE command_id = $1", made)
    return made


async def execute(dsn: str, statement: str, *values: Any) -> None:
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(statement, *values)
    finally:
        await conn.close()


async def say(
    broker: Parts, command_id: UUID, run: str, status: str = "pending", **more: Any
) -> bool:
    """Say it, and whether it counts."""
    said = Report(
        kind=Kind.RUN,
        adapter=ADAPTER,
        command_id=command_id,
        attempt=more.pop("attempt", 1),
        run=run,
        status=status,
        **more,
    )
    answer = await broker.reports.report(said)
    assert answer.status == 200
    return answer.body["counts"]


@pytest.mark.guarantee("run:ended")
async def test_a_run_that_ends_before_its_claim_is_a_dead_letter_that_says_why(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    assert await say(broker, one, "job:1", "failed", error=GONE)
    command = await subject(broker, one)
    assert (command.state, command.error) == ("dead_lettered", GONE)
    assert not command.outcome_unknown, "nothing was begun"
    [event] = await fetch(
        database.owner,
        "SELECT body::jsonb -> 'error' ->> 'message' AS said FROM audit.events"
        " WHERE type = 'command.dead_lettered' AND command_id = $1",
        one,
    )
    assert event["said"] == "No image."
    [row] = await fetch(
        database.owner,
        "SELECT payload::jsonb -> 'error' ->> 'code' AS code FROM outbox WHERE kind = 'deadletter'",
    )
    assert row["code"] == "job_failed"


@pytest.mark.guarantee("run:ended")
async def test_a_run_that_is_over_without_a_word_after_its_claim_leaves_its_outcome_in_doubt(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    await say(broker, one, "job:1")
    assert (await claim(broker, one, run="job:1:abc")).proceed
    assert await say(broker, one, "job:1", "error", error=LOST)
    command = await subject(broker, one)
    assert (command.state, command.outcome_unknown) == ("dead_lettered", True)


@pytest.mark.guarantee("run:ended")
@pytest.mark.parametrize(("error", "state"), [(LOST, "queued"), (GONE, "dead_lettered")])
async def test_where_it_does_no_harm_it_is_tried_again_unless_a_person_ended_it(
    error: dict[str, Any], state: str, broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home, TRIED | {"idempotent": True})
    assert (await claim(broker, one, run="job:1:abc")).proceed
    assert await say(broker, one, "job:1", "canceled", error=error)
    assert (await subject(broker, one)).state == state


@pytest.mark.guarantee("run:fenced")
async def test_a_run_whose_attempt_another_has_claimed_ends_nothing(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    assert await say(broker, one, "job:1")
    assert await say(broker, one, "job:2"), "sent again"
    assert not await say(broker, one, "job:1", "failed", error=GONE), "job 2 is at it"
    assert (await claim(broker, one, run="job:17:abc")).proceed
    assert not await say(broker, one, "job:1", "successful", error=GONE)
    assert not await say(broker, one, "job:2", "successful", error=GONE)
    assert not await say(broker, one, "job:17", "failed", attempt=2, error=GONE)
    assert (await subject(broker, one)).state == "running"
    assert await say(broker, one, "job:40", "failed", parts=("job:16", "job:17"), error=GONE)
    assert (await subject(broker, one)).state == "dead_lettered"


@pytest.mark.guarantee("run:fenced")
async def test_after_its_own_last_word_a_runs_end_is_no_news(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    assert (await claim(broker, one, run="job:1:abc")).proceed
    await finish(broker, one, result={"x": 1})
    assert await say(broker, one, "job:1", "successful", error=GONE)
    command = await subject(broker, one)
    assert (command.state, command.result) == ("succeeded", {"x": 1})
    rows = await fetch(database.owner, "SELECT FROM audit.events WHERE type = 'result.late'")
    assert rows == []


@pytest.mark.guarantee("run:waits")
async def test_an_attempt_whose_run_waits_is_not_sent_again_and_says_where_it_is(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    until = (await subject(broker, one)).lease_until
    link = "https://controller.test/#/jobs/playbook/1"
    assert await say(broker, one, "job:1", link=link)
    command = await subject(broker, one)
    assert command.lease_until is not None
    assert until is not None
    assert (command.lease_until - until).total_seconds() > 30
    assert command.run == {
        "attempt": 1,
        "name": "job:1",
        "status": "pending",
        "link": link,
        "log": None,
    }


@pytest.mark.guarantee("run:log")
async def test_the_last_lines_of_a_run_that_is_over_are_shown_without_the_secrets_in_it(
    broker: Parts, database: Dsns, home: Path
) -> None:
    text = {"type": "string", "x-sensitive": True}
    schema = {"type": "object", "properties": {"text": text}}
    await put(database, home, offer(TRIED, input_schema=schema), broker=broker)
    made = (await accept(broker, call("s3cret-text"))).written.id
    await execute(database.owner, PUBLISHED, made)
    await claim(broker, made, run="job:1:x")
    await finish(broker, made, result={"text": "done"})
    assert await say(broker, made, "job:1", "successful", log="ok\nuses s3cret-text\nPLAY RECAP")
    shown = view(await subject(broker, made))
    assert shown["state"] == "succeeded"
    assert shown["run"]["log"] == "ok\nuses [redacted]\nPLAY RECAP"


@pytest.mark.guarantee("run:waits")
async def test_an_attempt_that_could_not_be_launched_is_sent_again_after_the_pause(
    broker: Parts, database: Dsns, home: Path
) -> None:
    one = await dispatched(broker, database, home)
    away = {"code": "launch_failed", "message": "The controller answered 503."}
    assert await say(broker, one, "launch", "failed", error=away, again_after_s=30)
    command = await subject(broker, one)
    assert (command.state, command.attempt) == ("queued", 1)
    [row] = await fetch(
        database.owner, "SELECT status, available_at > now() + interval '25 s' AS later FROM outbox"
    )
    assert tuple(row) == ("delayed", True)
    await execute(database.owner, "DELETE FROM outbox WHERE command_id = $1", one)
    with pytest.raises(UnavailableError):
        await say(broker, one, "launch", "failed", error=away, again_after_s=30)
