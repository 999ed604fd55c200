"""The spans of a batch; those that cannot be made cost nobody a publication."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app.commands.store.dispatch_claim import LeasedRow
from app.edges.parts import Parts
from devstack.stack import Dsns
from relay.traces import LINKS_MAX, Traces, sent
from tests.support.calls import accept, claim, delete, finish
from tests.support.traced import opening

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
GIVEN_UP = f"00-{'d' * 32}-b7ad6b7169203331-01"


def row_of(kind: str = "command", **more: Any) -> LeasedRow:
    given: dict[str, Any] = {
        "outbox_id": 1,
        "event_id": uuid4(),
        "kind": kind,
        "topic": "mcp.commands",
        "key": "demo:x",
        "tenant_id": "demo",
        "command_id": uuid4(),
        "attempt": 1,
        "ready_at": datetime.now(UTC),
        "traceparent": TRACEPARENT,
    }
    return LeasedRow(**(given | more))


@pytest.mark.guarantee("traces:batches")
@pytest.mark.parametrize(
    ("rows", "name", "count", "links"),
    [
        ([row_of()], None, 0, 0),
        ([row_of(), row_of(traceparent=None)], None, 0, 0),
        ([row_of(), row_of()], "send mcp.commands", 2, 2),
        ([row_of(), row_of(topic="mcp.commands.worker")], "send", 2, 2),
        ([row_of() for _ in range(LINKS_MAX + 9)], "send mcp.commands", LINKS_MAX + 9, LINKS_MAX),
    ],
    ids=["one", "one traced", "two", "topics", "many"],
)
async def test_a_batch_is_told_where_several_of_it_are_traced(
    database: Dsns, rows: Sequence[LeasedRow], name: str | None, count: int, links: int
) -> None:
    async with asyncpg.create_pool(database.owner, min_size=0, max_size=1) as pool:
        with opening() as made:
            told = made()
            assert told.tracing is not None
            await Traces(pool, told.tracing).published(rows, start_ns=1, end_ns=2)
            spans = told.spans()
    batches = [one for one in spans if one.links]
    traced = [one for one in spans if one.trace_id.hex() == TRACE]
    assert len(traced) == sum(one.traceparent is not None for one in rows)
    if name is None:
        assert batches == []
        return
    [batch] = batches
    said = {one.key: one.value for one in batch.attributes}
    assert batch.name == name
    assert said["messaging.batch.message_count"].int_value == count
    assert ("messaging.destination.name" in said) == (name != "send")
    assert [one.span_id for one in batch.links] == [one.span_id for one in traced[:links]]


def test_what_is_not_sampled_goes_on_with_its_own_traceparent() -> None:
    assert sent(row_of(traceparent=TRACEPARENT[:-1] + "0")) is None
    assert sent(row_of(traceparent=None)) is None
    one = row_of(deliveries=1)
    assert (at := sent(one)) is not None
    assert at.trace_id.hex() == TRACE
    assert at != sent(row_of(command_id=one.command_id, deliveries=0))


async def test_an_end_whose_story_cannot_be_read_costs_its_spans_alone(
    database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    row = row_of("result", topic="mcp.results")
    async with asyncpg.create_pool(database.owner, min_size=1, max_size=1) as pool:
        await pool.execute("ALTER TABLE saga_steps RENAME COLUMN command_id TO of_later")
        with opening() as made, caplog.at_level(logging.WARNING):
            tracing = made().tracing
            assert tracing is not None
            await Traces(pool, tracing).published([row], start_ns=1, end_ns=2)
    assert "spans are lost" in caplog.text


@pytest.mark.guarantee("traces:one")
@pytest.mark.parametrize("together", [True, False])
async def test_a_dead_letters_life_is_told_once_though_two_events_tell_of_its_end(
    broker: Parts, database: Dsns, *, together: bool
) -> None:
    one = (await accept(broker, delete("a", traceparent=GIVEN_UP))).written.id
    for attempt in (1, 2, 3):
        await claim(broker, one, attempt=attempt)
        await finish(broker, one, attempt=attempt, error={"message": "the host is away"})
    events = [
        row_of(kind, topic=topic, command_id=one, attempt=3)
        for kind, topic in (("result", "mcp.results"), ("deadletter", "mcp.deadletter"))
    ]
    async with asyncpg.create_pool(database.relay, min_size=1, max_size=1) as pool:
        with opening() as made:
            told = made()
            assert told.tracing is not None
            traces = Traces(pool, told.tracing)
            for batch in [events] if together else [[event] for event in events]:
                await traces.published(batch, start_ns=1, end_ns=2)
            spans = [span for span in told.spans() if span.trace_id.hex() == "d" * 32]
    names = [span.name for span in spans]
    assert names.count("command git.delete") == 1
    assert names.count("process mcp.commands") == 3
    assert names.count("send mcp.results") == names.count("send mcp.deadletter") == 1
    assert len({span.span_id for span in spans}) == len(spans)
