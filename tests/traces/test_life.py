"""A command's life as spans: attempts, waits, a redrive."""

from datetime import UTC, datetime, timedelta
from typing import Any

import uuid_utils.compat

from app.traces.context import Context
from app.traces.life import Life, Moment, spans_of
from app.traces.otlp import Span

FRONT = Context(b"t" * 16, b"f" * 8)
BEGIN = datetime(2026, 11, 30, tzinfo=UTC)
COMMAND = uuid_utils.compat.uuid7()


def life(*told: tuple[str, int], **more: Any) -> Life:
    """A life of these events, each with its attempt, a second apart."""
    moments = [
        Moment(
            type=f"command.{kind}",
            at=BEGIN + timedelta(seconds=n),
            attempt=attempt,
            topic="mcp.commands" if kind == "dispatched" else None,
            run="worker:1" if kind == "claimed" else None,
            code="no: a text" if kind == "failed" else None,
        )
        for n, (kind, attempt) in enumerate(told)
    ]
    whole: dict[str, Any] = {
        "command_id": COMMAND,
        "tenant_id": "demo",
        "tool": "kind",
        "method": "echo",
        "traceparent": FRONT.traceparent,
        "saga_id": None,
        "step": None,
        "role": None,
        "undoes_id": None,
    }
    return Life(**whole | more, moments=moments)


def seconds(span: Span) -> tuple[str, float, float]:
    began = BEGIN.timestamp()
    return span.name, span.start_ns / 1e9 - began, span.end_ns / 1e9 - began


def test_each_attempt_is_a_span_linked_to_the_one_before_it() -> None:
    first = [("accepted", 1), ("dispatched", 1), ("claimed", 1), ("retry", 2)]
    second = [("dispatched", 2), ("claimed", 2), ("failed", 2)]
    spans = spans_of(life(*first, *second))
    assert [seconds(one) for one in spans] == [
        ("command kind.echo", 0, 6),
        ("wait in the outbox", 0, 1),
        ("wait for an executor", 1, 2),
        ("process mcp.commands", 2, 3),
        ("wait in the outbox", 3, 4),
        ("wait for an executor", 4, 5),
        ("process mcp.commands", 5, 6),
    ]
    one, two = (span for span in spans if span.name == "process mcp.commands")
    assert (list(one.links), list(two.links)) == ([], [one.at])
    assert one.parent == FRONT.sent(COMMAND, 1, 0).span_id
    assert two.parent == FRONT.sent(COMMAND, 2, 0).span_id
    assert dict(one.attributes)["mcp_broker.outcome"] == "retry"
    assert dict(two.attributes)["error.type"] == "failed", "an adapter's text is no code"
    assert len({span.at.span_id for span in spans}) == len(spans)


def test_a_claim_before_the_publication_was_recorded_leaves_no_wait_beside_the_work() -> None:
    spans = spans_of(life(("accepted", 1), ("claimed", 1), ("dispatched", 1), ("succeeded", 1)))
    assert [seconds(one) for one in spans] == [
        ("command kind.echo", 0, 3),
        ("wait in the outbox", 0, 1),
        ("process mcp.commands", 1, 3),
    ]


def test_what_was_sent_again_is_worked_on_below_the_last_sending() -> None:
    sent = [("accepted", 1), ("dispatched", 1), ("redeliver", 1), ("dispatched", 1)]
    spans = spans_of(life(*sent, ("claimed", 1), ("succeeded", 1)))
    work = spans[-1]
    assert work.parent == FRONT.sent(COMMAND, 1, 1).span_id
    assert sum(one.end_ns - one.start_ns for one in spans[1:]) == 5 * 10**9


def test_a_redrive_is_told_by_itself_below_its_command() -> None:
    first = [("accepted", 1), ("dispatched", 1), ("dead_lettered", 1)]
    again = [("redrive", 2), ("dispatched", 2), ("claimed", 2), ("succeeded", 2)]
    before, after = spans_of(life(*first)), spans_of(life(*first, *again))
    assert [one.name for one in before] == [
        "command kind.echo",
        "wait in the outbox",
        "wait for an executor",
    ]
    assert after[0].name == "redrive kind.echo"
    assert after[0].parent == before[0].at.span_id
    assert not {one.at for one in before} & {one.at for one in after}


def test_what_is_of_no_trace_or_has_not_ended_is_not_told() -> None:
    done = [("accepted", 1), ("cancelled", 1)]
    assert len(spans_of(life(*done))) == 2
    assert spans_of(life(*done, traceparent=None)) == []
    assert spans_of(life(("accepted", 1), ("dispatched", 1))) == []
