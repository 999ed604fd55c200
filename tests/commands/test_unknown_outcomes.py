"""An adapter that says that nobody knows what its attempt did; and when it may be asked again."""

from pathlib import Path
from typing import Any

import pytest

from app.commands.report import Kind, Report
from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import ADAPTER, accept, claim, fetch
from tests.support.offers import call, offer, put

UNKNOWN: dict[str, Any] = {
    "code": "target_lost",
    "message": "It went away.",
    "retryable": False,
    "outcome_unknown": True,
}
STATE = "SELECT state, attempt, outcome_unknown, attempts_lost FROM commands WHERE id = $1"


async def ended(broker: Parts, database: Dsns, error: dict[str, Any], **more: Any) -> Any:
    """The row of a call whose only attempt so far ends in this error."""
    made = (await accept(broker, call(**more))).written.id
    await claim(broker, made)
    said = Report(kind=Kind.RESULT, adapter=ADAPTER, command_id=made, attempt=1, error=error)
    answer = await broker.reports.report(said)
    assert answer.status == 200
    again = await broker.reports.report(said)
    assert again.body["repeated"] is True
    [row] = await fetch(database.owner, STATE, made)
    return row


@pytest.mark.guarantee("result:unknown")
async def test_an_unknown_outcome_is_a_dead_letter_in_doubt_that_holds_its_key(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await put(database, home, offer({"retry": {"attempts_max": 3}}), broker=broker)
    row = await ended(broker, database, UNKNOWN, ordering_key="k")
    assert tuple(row) == ("dead_lettered", 1, True, 1)
    [head] = await fetch(database.owner, "SELECT blocked_reason FROM ordering_heads")
    assert "unknown" in head["blocked_reason"]


@pytest.mark.guarantee("result:unknown")
async def test_an_unknown_outcome_is_tried_again_where_the_tool_is_idempotent(
    broker: Parts, database: Dsns, home: Path
) -> None:
    policy: dict[str, Any] = {"idempotent": True, "retry": {"attempts_max": 3}}
    await put(database, home, offer(policy), broker=broker)
    assert tuple(await ended(broker, database, UNKNOWN)) == ("queued", 2, False, 1)


@pytest.mark.guarantee("result:retry-after")
async def test_a_target_is_not_asked_again_before_it_wishes(
    broker: Parts, database: Dsns, home: Path
) -> None:
    policy: dict[str, Any] = {"retry": {"attempts_max": 3, "backoff_s": 0.01}}
    await put(database, home, offer(policy), broker=broker)
    busy = {"code": "target_busy", "message": "Busy.", "retryable": True, "retry_after_s": 77}
    assert (await ended(broker, database, busy))["state"] == "queued"
    [row] = await fetch(
        database.owner,
        "SELECT extract(epoch FROM available_at - now())::float8 AS s"
        "  FROM outbox WHERE attempt = 2",
    )
    assert 60 < row["s"] <= 77
