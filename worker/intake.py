"""From Kafka to running calls: what comes is claimed where there is room, and started at once.

Nothing is claimed that is not begun, so no lease is held in vain; and no offset is committed
before the claim was answered, so a worker that is killed leaves what it had not claimed to the
others, and what it had to its lease.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from adapters.targets import Target, TargetRefusedError
from app.config.worker import WorkerSettings
from app.contract import WORKER_COMMANDS
from worker import metrics
from worker.backlog import Backlog, Delivery, delivery
from worker.bounds import Bounds
from worker.calls import Calls
from worker.kafka import KAFKA_AWAY, commands_consumer
from worker.offsets import Offsets
from worker.reports import Reporter

logger = logging.getLogger(__name__)

POLL_MS: Final = 500
POLL_MAX: Final = 500
BACKLOG_MAX: Final = 2000
"""Commands that wait here unclaimed; beyond it Kafka keeps them."""
COMMIT_EVERY_S: Final = 0.2


class Intake(ConsumerRebalanceListener):
    """Takes commands for as long as `run` runs; what it has begun is `tasks`."""

    def __init__(
        self, settings: WorkerSettings, reporter: Reporter, calls: Calls, *, worker: str
    ) -> None:
        self._settings = settings
        self._reporter = reporter
        self._calls = calls
        self._worker = worker
        self._bounds = Bounds(
            calls_max=settings.worker_calls_max, per_tenant_max=settings.worker_calls_per_tenant_max
        )
        self._backlog = Backlog(self._bounds)
        self._offsets = Offsets()
        self._room = asyncio.Event()
        self._stopped = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        """Read until this task is cancelled, or Kafka fails."""
        consumer = commands_consumer(self._settings, client_id=self._worker)
        committing: asyncio.Task[None] | None = None
        try:
            await consumer.start()
            consumer.subscribe([WORKER_COMMANDS], listener=self)
            committing = asyncio.create_task(self._commit_often(consumer))
            while not committing.done():
                await self._poll(consumer)
            await committing  # it fails only
        finally:
            if committing is not None:
                committing.cancel()
            await self._leave(consumer)

    async def claim(self) -> None:
        """Claim what there is room for, until this task is cancelled."""
        while True:
            batch = self._backlog.take(POLL_MAX)
            metrics.WAITING.set(len(self._backlog))
            for one in batch:
                task = asyncio.create_task(self._work(one))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            if not batch:
                self._room.clear()
                await self._room.wait()
            else:
                await asyncio.sleep(0)  # the claims are said together

    def stop(self) -> None:
        """Take no more; what is unclaimed is another worker's."""
        self._stopped = True
        self._backlog.clear()

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """What came from there and is unclaimed is another worker's."""
        self._backlog.drop(revoked)
        self._offsets.forget(revoked)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Reading goes on at what the group has committed."""
        logger.info("partitions assigned", extra={"partitions": len(assigned)})

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        if len(self._backlog) >= BACKLOG_MAX:
            consumer.pause(*consumer.assignment())
        elif paused := consumer.paused():
            consumer.resume(*paused)
        polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_MAX)
        for place, records in polled.items():
            for record in records:
                self._offsets.add(place, record.offset)
                one = delivery(record, worker=self._worker)
                if one is None:
                    logger.error(
                        "a record is no command",
                        extra={"partition": record.partition, "offset": record.offset},
                    )
                if one is None or self._stopped or not self._backlog.add(one):
                    self._offsets.done(place, record.offset)
        if polled:
            self._room.set()

    async def _work(self, one: Delivery) -> None:
        """Claim, and do what was granted, in one task: what is claimed has begun."""
        slot = one.slot
        assert slot is not None, "it was taken with its slot"
        try:
            answer = await self._reporter.say(one.claim)
            self._offsets.done(one.place, one.offset)
            granted = answer.get("proceed") is True
            metrics.CLAIMS.labels("granted" if granted else "refused").inc()
            if not granted:
                self._refused(one, answer)
                return
            self._settle(one, answer)
            late = time.monotonic() - answer["asked_at"] > answer["lease_s"] / 2
            await self._calls.work(answer, one.run, late=late)
        except Exception:  # one call must not end the others
            logger.exception("a call failed", extra={"correlation_id": one.correlation_id})
        finally:
            self._bounds.give_back(slot)
            self._room.set()

    def _settle(self, one: Delivery, answer: dict[str, Any]) -> None:
        """The call's target, and its limits, are known now."""
        if answer.get("target") is None or one.slot is None:
            return
        try:
            target = Target.read(answer["target"])
        except TargetRefusedError:
            return  # the call says so
        self._bounds.settle(one.slot, target.tenant, target.name, target.limits)
        self._room.set()

    def _refused(self, one: Delivery, answer: dict[str, Any]) -> None:
        """Another run has it, it has ended, or this worker may not have it."""
        level = logging.INFO if answer["status"] in {409, 410} else logging.WARNING
        reason = answer.get("reason") or answer.get("detail")
        logger.log(level, "claim refused: %s", reason, extra={"correlation_id": one.correlation_id})

    async def _commit_often(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            await self._commit(consumer)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        assigned = consumer.assignment()
        due = {place: at for place, at in self._offsets.due().items() if place in assigned}
        if not due:
            return
        try:
            await consumer.commit(due)
        except KAFKA_AWAY as error:
            logger.warning("offsets are not committed: %r", error)
        else:
            self._offsets.committed(due)

    async def _leave(self, consumer: AIOKafkaConsumer) -> None:
        """Leave the group, with what was claimed committed."""
        try:
            await self._commit(consumer)
        finally:
            places: Sequence[TopicPartition] = list(consumer.assignment())
            await consumer.stop()
            self._backlog.drop(places)
            self._offsets.forget(places)
