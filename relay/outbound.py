"""The outbox on its way to Kafka: claim, publish, record. At least once, always.

Killed after the claim, the rows' lease ends and they go again; killed after Kafka's
acknowledgement, they go twice, with the same message_uuid, and the claim's fence takes one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg
import orjson

from app import metrics
from app.commands.envelope import envelope, headers
from app.commands.store import dispatch_claim, dispatch_record
from app.commands.store.dispatch_claim import LeasedRow
from app.commands.store.dispatch_record import Acked
from app.config import Settings
from app.postgres.engine import AWAY
from app.postgres.wakeups import Notifier
from relay import waits
from relay.kafka import Publisher, PublishError, Record

logger = logging.getLogger(__name__)

BACKOFF_S: Final = 1.0

BATCHES: Final = 4
"""Of commands, on their way at a time: PostgreSQL works while Kafka does, and a small batch waits for
no larger one. With two the drain was a tenth slower, and a quiet tenant's p95 beside a noisy one."""


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
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._notifier = notifier
        self._settings = settings
        self._relay = relay
        self._wakes: list[asyncio.Event] = []
        self._top_only = True
        self.published = 0

    def wake(self, _payload: str = "") -> None:
        """Something may be ready."""
        for event in self._wakes:
            event.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until told to stop; what was claimed by then is finished first."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop(self._claim_commands, stop, at_once=BATCHES))
            # What is said of a command keeps its order.
            group.create_task(self._loop(self._claim_events, stop, at_once=1))

    async def _loop(
        self,
        dispatch_claim: Callable[[], Awaitable[list[LeasedRow]]],
        stop: asyncio.Event,
        *,
        at_once: int,
    ) -> None:
        woken = asyncio.Event()
        self._wakes.append(woken)
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
                    elif not claimed:
                        await waits.until(woken, self._settings.poll_s)
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
        finally:
            for task in sending:
                task.cancel()

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
        try:
            places = await self._publisher.publish([record(one) for one in claimed])
        except PublishError:
            metrics.PUBLISH_FAILURES.inc()
            await dispatch_record.give_back(self._pool, claimed, relay=self._relay)
            raise
        acked = [
            Acked(claimed=one, partition=partition, offset=offset)
            for one, (partition, offset) in zip(claimed, places, strict=True)
        ]
        moved = await dispatch_record.published(
            self._pool, acked, relay=self._relay, claim_wait_s=self._settings.claim_wait_s
        )
        self.published += len(acked)
        observe(claimed)
        self._notifier.commands(moved)
        for one in acked:
            logger.debug(
                "published",
                extra={"correlation_id": str(one.claimed.command_id), "topic": one.claimed.topic},
            )


def observe(claimed: Sequence[LeasedRow]) -> None:
    """Count what was published, and how long its commands waited."""
    now = datetime.now(UTC)
    for one in claimed:
        metrics.PUBLISHED.labels(one.kind).inc()
        if one.kind == "command":
            metrics.DISPATCH_S.observe(max(0, (now - one.ready_at).total_seconds()))


def record(claimed: LeasedRow) -> Record:
    """A claimed row as Kafka gets it."""
    if claimed.command is not None:
        value = orjson.dumps(envelope(claimed.command, by_reference=claimed.by_reference))
    else:
        assert claimed.payload is not None
        value = claimed.payload.encode()
    return Record(
        topic=claimed.topic,
        key=claimed.key.encode(),
        value=value,
        headers=headers(
            event_id=claimed.event_id,
            tenant_id=claimed.tenant_id,
            command_id=claimed.command_id,
            ordering_key=claimed.ordering_key,
            attempt=claimed.attempt,
            trace=claimed.traceparent,
        ),
    )
