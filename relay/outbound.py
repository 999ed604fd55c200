"""The outbox on its way to Kafka: claim, publish, record. At least once, always.

Killed after the claim, the rows' lease ends and they go again; killed after Kafka's
acknowledgement, they go twice, with the same message_uuid, and the claim's fence takes one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from time import time_ns
from typing import Final

import asyncpg
import orjson

from app import metrics
from app.commands.envelope import envelope, headers
from app.commands.store import dispatch_claim, dispatch_record
from app.commands.store.dispatch_claim import LeasedRow
from app.commands.store.dispatch_record import Acked, RefusedRow
from app.commands.view import outcome_by_reference
from app.config import Settings
from app.postgres import wakeups
from app.postgres.engine import AWAY
from app.postgres.wakeups import Notifier
from app.traces.context import log_ids
from relay import waits
from relay.publisher import Place, Publisher, PublishError, Record, Refused
from relay.traces import Traces, sent

logger = logging.getLogger(__name__)

BACKOFF_S: Final = 1.0

REFUSED_PAUSE_S: Final = 5.0
"""A row whose topic is missing or refused is tried again after this."""

BATCHES: Final = 4
"""Of commands, on their way at a time: PostgreSQL works while Kafka does, and a small batch waits
for no larger one. With two the drain was a tenth slower, and a quiet tenant's p95 beside a noisy
one."""


class Outbound:
    """Moves ready rows to Kafka for as long as `run` runs."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        publisher: Publisher,
        notifier: Notifier,
        settings: Settings,
        *,
        relay: str,
        traces: Traces | None = None,
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._notifier = notifier
        self._settings = settings
        self._relay = relay
        self._traces = traces
        self._calls = asyncio.Event()
        self._events = asyncio.Event()
        self._top_only = True
        self.published = 0

    def wake(self, payload: str = "") -> None:
        """Something may be ready, or new calls only."""
        self._calls.set()
        if payload != wakeups.CALLS:
            self._events.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until told to stop; what was claimed by then is finished first."""
        async with asyncio.TaskGroup() as group:
            calls, events = self._calls, self._events
            group.create_task(self._loop(self._claim_commands, stop, calls, at_once=BATCHES))
            # What is said of a command keeps its order.
            group.create_task(self._loop(self._claim_events, stop, events, at_once=1))

    async def _loop(
        self,
        dispatch_claim: Callable[[], Awaitable[list[LeasedRow]]],
        stop: asyncio.Event,
        woken: asyncio.Event,
        *,
        at_once: int,
    ) -> None:
        sending: set[asyncio.Task[None]] = set()
        try:
            while not stop.is_set() or sending:
                woken.clear()
                try:
                    claimed = [] if stop.is_set() else await dispatch_claim()
                    if claimed:
                        sending.add(asyncio.create_task(self._send(claimed)))
                    if len(sending) == at_once or (sending and stop.is_set()):
                        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                    elif len(claimed) < self._settings.relay_batch_max:
                        # All that may go has been claimed: what comes now is gathered.
                        await self._pause(woken, sending, claimed)
                    for task in [task for task in sending if task.done()]:
                        sending.remove(task)
                        task.result()
                except PublishError as error:
                    logger.warning("kafka is away, the outbox waits: %s", error)
                    # Not until woken: under load wakeups come all the time.
                    await waits.until(stop, BACKOFF_S)
                except AWAY as error:
                    logger.warning("postgres is away: %r", error)
                    await waits.until(stop, BACKOFF_S)
                except Exception:  # whatever one batch holds: its lease ends, and others go on
                    logger.exception("a batch failed")
                    await waits.until(stop, BACKOFF_S)
        finally:
            for task in sending:
                task.cancel()

    async def _pause(
        self, woken: asyncio.Event, sending: set[asyncio.Task[None]], claimed: Sequence[LeasedRow]
    ) -> None:
        """Wait for a wakeup, or for one of the batches; without any, for no longer than a poll."""
        if not sending:
            if not claimed:
                await waits.until(woken, self._settings.poll_s)
            return
        waking = asyncio.create_task(woken.wait())
        try:
            await asyncio.wait({waking, *sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()

    async def _claim_commands(self) -> list[LeasedRow]:
        claimed = await dispatch_claim.lease_commands(
            self._pool,
            relay=self._relay,
            batch_max=self._settings.relay_batch_max,
            window=self._settings.dispatch_window,
            aging_s=self._settings.aging_s,
            lease_s=self._settings.relay_lease_s,
            top_only=self._top_only,
        )
        # Every other batch is of the highest priority alone, so that an urgent call waits for no
        # look at a thousand tenants' lanes. The one after it is in order, so that nothing starves,
        # however often nothing may go in between.
        if claimed:
            self._top_only = not self._top_only
        return claimed

    async def _claim_events(self) -> list[LeasedRow]:
        return await dispatch_claim.lease_events(
            self._pool,
            relay=self._relay,
            batch_max=self._settings.relay_batch_max,
            lease_s=self._settings.relay_lease_s,
        )

    async def _send(self, claimed: Sequence[LeasedRow]) -> None:
        """Publish, and record each row's outcome: one that is refused holds up no other.

        Raises:
            PublishError: some of the rows wait, as Kafka does not answer.
        """
        leased_at = datetime.now(UTC)
        refused: list[RefusedRow] = []
        made: list[tuple[LeasedRow, Record]] = []
        for one in claimed:
            try:
                made.append((one, self._made(one)))
            except Exception as error:
                logger.exception("no event can be made of a row", extra={"row": one.outbox_id})
                reason = f"no event can be made of it: {type(error).__name__}"
                refused.append(RefusedRow(claimed=one, reason=reason, parks=True))
        acked: list[Acked] = []
        unknown: list[LeasedRow] = []
        started = time_ns()
        try:
            outcomes = await self._publisher.publish([record for _, record in made])
        except PublishError:
            metrics.PUBLISH_FAILURES.inc()
            await self._give_back([one for one, _ in made], refused)
            raise
        answered = time_ns()
        for (one, _), outcome in zip(made, outcomes, strict=True):
            match outcome:
                case Place(partition, offset):
                    acked.append(Acked(claimed=one, partition=partition, offset=offset))
                case Refused(reason, parks):
                    refused.append(RefusedRow(claimed=one, reason=reason, parks=parks))
                case None:
                    unknown.append(one)
        await self._record(acked, leased_at)
        if self._traces is not None:
            gone = [one.claimed for one in acked]
            await self._traces.published(gone, start_ns=started, end_ns=answered)
        await self._give_back(unknown, refused)
        if unknown:
            metrics.PUBLISH_FAILURES.inc()
            raise PublishError(f"Kafka told nothing of {len(unknown)} of {len(made)} records")

    def _made(self, one: LeasedRow) -> Record:
        """A row's record, which is of the span of its publication where that is recorded."""
        at = None if self._traces is None else sent(one)
        trace = one.traceparent if at is None else at.traceparent
        return record(one, bytes_max=self._settings.event_bytes_max, trace=trace)

    async def _record(self, acked: Sequence[Acked], leased_at: datetime) -> None:
        if not acked:
            return
        moved = await dispatch_record.published(
            self._pool, acked, relay=self._relay, claim_wait_s=self._settings.claim_wait_s
        )
        self.published += len(acked)
        observe([one.claimed for one in acked], leased_at)
        self._notifier.moves(moved)
        if logger.isEnabledFor(logging.DEBUG):
            for one in acked:
                logger.debug(
                    "published",
                    extra={
                        "correlation_id": str(one.claimed.command_id),
                        "topic": one.claimed.topic,
                        **log_ids(one.claimed.traceparent),
                    },
                )

    async def _give_back(self, unknown: Sequence[LeasedRow], refused: Sequence[RefusedRow]) -> None:
        if unknown:
            await dispatch_record.give_back(self._pool, unknown, relay=self._relay)
        if not refused:
            return
        await dispatch_record.stand_aside(
            self._pool, refused, relay=self._relay, pause_s=REFUSED_PAUSE_S
        )
        for one in refused:
            metrics.REFUSED_ROWS.labels("parked" if one.parks else "again").inc()
            if one.parks:
                logger.error(
                    "kafka refuses a row for good: it is parked (broker outbox list)",
                    extra={
                        "correlation_id": str(one.claimed.command_id),
                        "row": one.claimed.outbox_id,
                        "topic": one.claimed.topic,
                        "reason": one.reason,
                        **log_ids(one.claimed.traceparent),
                    },
                )


def observe(claimed: Sequence[LeasedRow], leased_at: datetime) -> None:
    """Count what was published, and how long its commands waited."""
    now = datetime.now(UTC)
    for one in claimed:
        metrics.PUBLISHED.labels(one.kind).inc()
        if one.command is None:
            continue
        which, trace = (one.command["tool"], one.command["method"]), one.traceparent
        waited_s = (leased_at - one.ready_at).total_seconds()
        metrics.QUEUE_WAIT_S.observe(waited_s, *which, trace=trace)
        metrics.DISPATCH_S.observe((now - one.ready_at).total_seconds(), *which, trace=trace)


def record(claimed: LeasedRow, *, bytes_max: int, trace: str | None) -> Record:
    """A claimed row as Kafka gets it: what is too large for it goes as a reference."""
    return Record(
        topic=claimed.topic,
        key=claimed.key.encode(),
        value=_value(claimed, bytes_max),
        headers=headers(
            event_id=claimed.event_id,
            tenant_id=claimed.tenant_id,
            command_id=claimed.command_id,
            ordering_key=claimed.ordering_key,
            attempt=claimed.attempt,
            trace=trace,
            target=claimed.target,
        ),
    )


def _value(claimed: LeasedRow, bytes_max: int) -> bytes:
    if claimed.command is not None:
        value = orjson.dumps(envelope(claimed.command, by_reference=claimed.by_reference))
        if len(value) <= bytes_max:
            return value
        return orjson.dumps(envelope(claimed.command, by_reference=True))
    assert claimed.payload is not None
    value = claimed.payload.encode()
    if len(value) <= bytes_max or claimed.kind not in {"result", "deadletter"}:
        return value
    return orjson.dumps(outcome_by_reference(orjson.loads(value)))
