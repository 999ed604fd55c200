"""Kafka's producer: what it took, what it refused, and what nobody knows of, record by record."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    CorruptRecordException,
    InvalidMessageError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
)

from app.config import Settings
from relay.kafka import KAFKA_AWAY, create_topics, tell_limits

logger = logging.getLogger(__name__)

BATCH_BYTES: Final = 256 << 10
"""The default of 16 KiB halves the throughput."""

LINGER_MS: Final = 0
"""A batch is handed over before the sender takes it, so nothing is gained by waiting."""

RETRY_S: Final = 1.0
TOPIC_PAUSE_S: Final = 5.0
"""A topic that is missing or refused is looked up again after this."""

LOOKS: Final = 5
LOOK_S: Final = 0.1
"""A topic that has just been made takes a moment to be known to every broker."""

OF_THE_RECORD: Final = (
    CorruptRecordException,
    InvalidMessageError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
    UnsupportedForMessageFormatError,
)
"""However often it is tried, this record is refused: told of a batch, so each is tried alone."""

OF_THE_TOPIC: Final = (
    InvalidTopicError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What goes to Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where Kafka has it."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Kafka does not take it: never as it is (`parks`), or not as long as its topic is so."""

    reason: str
    parks: bool


Outcome = Place | Refused | None
"""None: nobody knows; it may be there."""


class PublishError(Exception):
    """Kafka told of none of the records; some may be there, and none counts as published."""


class Publisher:
    """Publishes batches, in order; connects when first needed."""

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._topics_made = False
        self._shut: dict[str, tuple[float, Refused]] = {}  # topics: until when, and why

    async def connect(self) -> None:
        """Make the topics and connect, for as long as it takes: consumers wait for the topics."""
        while True:
            try:
                await self._ready()
                await tell_limits(self._settings)
            except KAFKA_AWAY as error:
                logger.warning("kafka is away: %r", error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def publish(self, records: Sequence[Record]) -> list[Outcome]:
        """Send all; returns what became of each. One that is refused holds up no other.

        A failed idempotent batch can wedge the producer (aiokafka#1017: sequence numbers are
        consumed and every later batch is out of order), so after any failure it is discarded and
        the caller reads from Postgres again: duplicates, with the same message_uuid, not gaps.

        Raises:
            PublishError: nothing is known of any, for `publish_timeout_s` or at once.
        """
        outcomes: list[Outcome] = [None] * len(records)
        failed: Exception | None = None
        sending: dict[int, asyncio.Future[Any]] = {}
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._settings.publish_timeout_s):
                producer = await self._ready()
                await self._send(producer, records, sending, outcomes)
                await self._settled(producer, records, sending)
                doubted = self._read(records, sending, outcomes)
                if any(_doubtful(one) for one in sending.values()) and self._producer is producer:
                    await self.discard()
                if doubted:
                    await self._alone(records, doubted, outcomes)
        except KAFKA_AWAY as error:
            self._read(records, sending, outcomes)
            if self._producer is producer:  # not the one that another batch has opened since
                await self.discard()
            failed = error
        if records and not any(outcomes):
            reasons = {repr(one.exception()) for one in sending.values() if one.done()}
            reason = repr(failed) if failed is not None else ", ".join(sorted(reasons))
            raise PublishError(f"Kafka did not acknowledge: {reason}") from failed
        return outcomes

    async def _send(
        self,
        producer: AIOKafkaProducer,
        records: Sequence[Record],
        sending: dict[int, asyncio.Future[Any]],
        outcomes: list[Outcome],
    ) -> None:
        for n, record in enumerate(records):
            outcomes[n] = await self._topic_refused(producer, record.topic)
            if outcomes[n] is not None:
                continue
            try:
                # Awaited one by one: concurrent send() calls overtake each other.
                sending[n] = await producer.send(
                    record.topic, value=record.value, key=record.key, headers=record.headers
                )
            except OF_THE_RECORD as error:  # over what this producer may send
                outcomes[n] = Refused(repr(error), parks=True)

    async def _settled(
        self,
        producer: AIOKafkaProducer,
        records: Sequence[Record],
        sending: dict[int, asyncio.Future[Any]],
    ) -> None:
        """Wait until each is told of, or only those of topics that have gone meanwhile are left."""
        left = set(sending.values())
        while left:
            _, left = await asyncio.wait(left, timeout=RETRY_S)
            topics = {records[n].topic for n, one in sending.items() if one in left}
            known = producer.client.cluster.partitions_for_topic
            if left and not any(known(topic) for topic in topics):
                return

    def _read(
        self,
        records: Sequence[Record],
        sending: dict[int, asyncio.Future[Any]],
        outcomes: list[Outcome],
    ) -> list[int]:
        """Write down what is known; returns which are to be tried alone."""
        doubted: list[int] = []
        for n, future in sending.items():
            if not future.done() or future.cancelled():
                continue
            error = future.exception()
            if error is None:
                metadata = future.result()
                outcomes[n] = Place(metadata.partition, metadata.offset)
            elif isinstance(error, (*OF_THE_RECORD, UnknownError)):
                doubted.append(n)
            elif isinstance(error, OF_THE_TOPIC):
                outcomes[n] = self._shut_topic(records[n].topic, repr(error))
        return doubted

    async def _alone(
        self, records: Sequence[Record], doubted: Sequence[int], outcomes: list[Outcome]
    ) -> None:
        """Send one at a time what was refused as a part of a batch, to know which it was.

        Without idempotence, as nothing goes beside it that could come out of order.
        """
        producer = await self._open(idempotent=False)
        try:
            for n in doubted:
                record = records[n]
                try:
                    metadata = await producer.send_and_wait(
                        record.topic, value=record.value, key=record.key, headers=record.headers
                    )
                except OF_THE_RECORD as error:
                    outcomes[n] = Refused(repr(error), parks=True)
                except UnknownError as error:  # its own fault, or the broker's for a while
                    outcomes[n] = Refused(repr(error), parks=False)
                except OF_THE_TOPIC as error:
                    outcomes[n] = self._shut_topic(record.topic, repr(error))
                else:
                    outcomes[n] = Place(metadata.partition, metadata.offset)
        finally:
            await _stop(producer)

    async def _topic_refused(self, producer: AIOKafkaProducer, topic: str) -> Refused | None:
        """Why nothing can go to a topic now; None where it can."""
        client = producer.client
        until, refused = self._shut.get(topic, (0.0, None))
        if refused is not None and time.monotonic() < until:
            return refused
        if client.cluster.partitions_for_topic(topic):
            return None
        client.add_topic(topic)
        for _ in range(LOOKS):
            if not await client.force_metadata_update():
                raise KafkaConnectionError("No broker tells of its topics.")
            if client.cluster.partitions_for_topic(topic):
                self._shut.pop(topic, None)
                return None
            if topic in client.cluster.unauthorized_topics:
                return self._shut_topic(topic, f"Kafka's access rules keep {topic} from the relay")
            await asyncio.sleep(LOOK_S)
        self._topics_made = False
        return self._shut_topic(topic, f"there is no topic {topic}")

    def _shut_topic(self, topic: str, reason: str) -> Refused:
        refused = Refused(reason, parks=False)
        self._shut[topic] = (time.monotonic() + TOPIC_PAUSE_S, refused)
        logger.warning("kafka takes nothing for a topic", extra={"topic": topic, "reason": reason})
        return refused

    async def _ready(self) -> AIOKafkaProducer:
        async with self._connecting:
            if not self._topics_made and self._settings.kafka_create_topics:
                await create_topics(self._settings)
                self._topics_made = True
            if self._producer is None:
                self._producer = await self._open(idempotent=True)
            return self._producer

    async def _open(self, *, idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            client_id=self._client_id,
            enable_idempotence=idempotent,
            acks="all",
            max_batch_size=BATCH_BYTES,
            linger_ms=LINGER_MS,
            # The topic's own limit decides.
            max_request_size=self._settings.result_bytes_max + (1 << 20),
            **self._settings.kafka_security.client_options(),
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def discard(self) -> None:
        """Close the producer, without waiting for what it holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(2):
            await producer.stop()
    except KAFKA_AWAY as error:
        logger.info("producer discarded: %r", error)


def _doubtful(future: asyncio.Future[Any]) -> bool:
    return not future.done() or future.cancelled() or future.exception() is not None
