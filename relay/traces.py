"""The spans that a relay knows of: what it publishes, and the whole life of what has ended."""

import logging
from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from app.commands.store import lives
from app.commands.store.dispatch_claim import LeasedRow
from app.postgres.engine import AWAY
from app.traces import names
from app.traces.context import Context
from app.traces.life import Life, spans_of
from app.traces.otlp import CLIENT, PRODUCER, Span
from app.traces.tracing import Tracing

logger = logging.getLogger(__name__)

LINKS_MAX: Final = 128
"""Of one span: the specification's OTEL_SPAN_LINK_COUNT_LIMIT."""


class Traces:
    """Spans of what one relay has published."""

    def __init__(self, pool: asyncpg.Pool, tracing: Tracing) -> None:
        self._pool = pool
        self._tracing = tracing

    async def published(self, rows: Sequence[LeasedRow], *, start_ns: int, end_ns: int) -> None:
        """Record what Kafka has acknowledged of one batch, and the lives that ended with it.

        They are lost where the database is away now, or this relay dies before it has sent them.
        Raises nothing: the rows are published, whatever becomes of their spans.
        """
        try:
            await self._recorded(rows, start_ns, end_ns)
        except AWAY as error:
            logger.warning("spans are lost, postgres is away: %r", error)
        except Exception:
            logger.exception("spans are lost")

    async def _recorded(self, rows: Sequence[LeasedRow], start_ns: int, end_ns: int) -> None:
        told: list[Context] = []
        for one in rows:
            if one.kind == "command" and (at := sent(one)) is not None:
                assert one.command_id is not None
                self._send(one, at, at.command(one.command_id), start_ns, end_ns)
                told.append(at)
        told += await self._ends(rows, start_ns, end_ns)
        if len(told) > 1:
            self._batch({one.topic for one in rows}, told, start_ns, end_ns)

    async def _ends(
        self, rows: Sequence[LeasedRow], start_ns: int, end_ns: int
    ) -> Sequence[Context]:
        """Tell the lives that ended; the spans of their ends' publication."""
        events = [one for one in rows if one.kind in {"result", "deadletter"}]
        ended = {one.command_id for one in events if one.command_id is not None}
        if not ended:
            return ()
        known = {one.command_id: one for one in await lives.of(self._pool, list(ended))}
        told: list[Context] = []
        for one in events:
            life = known.get(one.command_id) if one.command_id is not None else None
            if life is not None and (at := self._told(one, life, start_ns, end_ns)) is not None:
                told.append(at)
        return told

    def _told(self, one: LeasedRow, life: Life, start_ns: int, end_ns: int) -> Context | None:
        """An end, on its way to whoever reads the topic."""
        front = Context.read(life.traceparent)
        if front is None or not front.sampled:
            return None
        command = front.command(life.command_id)
        at = command.of(one.topic, one.attempt)
        self._send(one, at, command, start_ns, end_ns)
        if one.kind == "result":
            for span in spans_of(life, self._who(life.command_id, life.tenant_id)):
                self._tracing.record(span)
        return at

    def _batch(
        self, topics: Collection[str], told: Sequence[Context], start_ns: int, end_ns: int
    ) -> None:
        """Messages that were sent together: in a trace of their own, linked to each one's span."""
        name, attributes = names.batch(next(iter(topics)) if len(topics) == 1 else None)
        self._tracing.record(
            Span(
                at=self._tracing.serve(None).at,
                parent=None,
                name=name,
                kind=CLIENT,
                start_ns=start_ns,
                end_ns=end_ns,
                attributes=attributes,
                own=(("messaging.batch.message_count", len(told)),),
                links=told[:LINKS_MAX],
            )
        )

    def _send(
        self, one: LeasedRow, at: Context, parent: Context, start_ns: int, end_ns: int
    ) -> None:
        name, attributes = names.messaging("send", one.topic)
        if one.kind == "command":
            attributes = (*attributes, ("mcp_broker.attempt", one.attempt or 1))
        self._tracing.record(
            Span(
                at=at,
                parent=parent.span_id,
                name=name,
                kind=PRODUCER,
                start_ns=start_ns,
                end_ns=end_ns,
                attributes=attributes,
                own=(
                    ("messaging.message.id", str(one.event_id)),
                    *self._who(one.command_id, one.tenant_id),
                ),
            )
        )

    def _who(self, command_id: UUID | None, tenant_id: str) -> tuple[tuple[str, str | int], ...]:
        return self._tracing.who(correlation_id=command_id, tenant_id=tenant_id)


def sent(one: LeasedRow) -> Context | None:
    """The span of a command's publication, which goes along with it; None where it has none."""
    front = Context.read(one.traceparent)
    if front is None or not front.sampled or one.command_id is None:
        return None
    return front.sent(one.command_id, one.attempt or 1, one.deliveries)
