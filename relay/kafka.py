"""Kafka: an idempotent producer that is thrown away at the first doubt, and the topics."""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.helpers import create_ssl_context

from app.config import Settings
from app.contract import AUDIT, TOPICS
from app.trust import KafkaSecurity

logger = logging.getLogger(__name__)

KAFKA_AWAY: Final = (KafkaError, OSError, TimeoutError)
"""What a Kafka that is away looks like."""

BATCH_BYTES: Final = 256 << 10
"""The default of 16 KiB halves the throughput."""

LINGER_MS: Final = 0
"""A batch is handed over before the sender has its turn, so nothing is gained by waiting."""

RETRY_S: Final = 1.0
AUDIT_RETENTION: Final = {"retention.ms": "-1"}
"""Checkpoints anchor the audit trail, so they are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What goes to Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class PublishError(Exception):
    """Some records may not be in Kafka; none of them counts as published."""


def security(settings: KafkaSecurity) -> dict[str, Any]:
    """The client options for TLS and SASL; files are read now, so at each connection.

    Raises:
        OSError: a file cannot be read (ssl.SSLError: or is no certificate).
    """
    protocol = settings.security_protocol
    if protocol == "PLAINTEXT":
        return {}
    key_password = settings.key_password
    # It checks the broker's name against its certificate; there is no setting to leave that out.
    context = create_ssl_context(
        cafile=settings.cafile,
        certfile=settings.certfile,
        keyfile=settings.keyfile,
        password=None if key_password is None else key_password.get_secret_value(),
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    made: dict[str, Any] = {"security_protocol": protocol, "ssl_context": context}
    if protocol == "SASL_SSL":
        made["sasl_mechanism"] = settings.sasl_mechanism
        made["sasl_plain_username"] = settings.sasl_username
        made["sasl_plain_password"] = settings.password()
    return made


class Publisher:
    """Publishes batches, in order, or raises; connects when first needed."""

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._topics_made = False

    async def connect(self) -> None:
        """Make the topics and connect, for as long as it takes: consumers wait for the topics."""
        while True:
            try:
                await self._ready()
            except KAFKA_AWAY as error:
                logger.warning("kafka is away: %r", error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def publish(self, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Send all; returns (partition, offset) of each.

        A failed idempotent batch can wedge the producer (aiokafka#1017: sequence numbers are
        consumed and every later batch is out of order), so after any failure it is discarded and
        the caller reads from Postgres again: duplicates, with the same message_uuid, not gaps.

        Raises:
            PublishError: on any failure or after `publish_timeout_s`.
        """
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._settings.publish_timeout_s):
                producer = await self._ready()
                futures = [
                    # Awaited one by one: concurrent send() calls overtake each other.
                    await producer.send(
                        record.topic, value=record.value, key=record.key, headers=record.headers
                    )
                    for record in records
                ]
                acks = await asyncio.gather(*futures)
        except KAFKA_AWAY as error:
            if self._producer is producer:  # not the one that another batch has opened since
                await self.discard()
            raise PublishError(f"Kafka did not acknowledge: {error!r}") from error
        return [(ack.partition, ack.offset) for ack in acks]

    async def _ready(self) -> AIOKafkaProducer:
        async with self._connecting:
            if not self._topics_made and self._settings.kafka_create_topics:
                await create_topics(self._settings)
                self._topics_made = True
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._settings.kafka_bootstrap,
                    client_id=self._client_id,
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=BATCH_BYTES,
                    linger_ms=LINGER_MS,
                    max_request_size=self._settings.result_bytes_max + (1 << 20),
                    **security(self._settings.kafka_security),
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def discard(self) -> None:
        """Close the producer, without waiting for what it holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(2):
                    await producer.stop()
            except KAFKA_AWAY as error:
                logger.info("producer discarded: %r", error)


async def create_topics(settings: Settings) -> None:
    """Create the topics that are missing; refused by Kafka's access rules, it goes on without."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap, **security(settings.kafka_security)
    )
    try:
        await admin.start()
        known = set(await admin.list_topics())
        for topic in TOPICS:
            if topic in known:
                continue
            made = NewTopic(
                topic,
                1 if topic == AUDIT else settings.kafka_partitions,
                settings.kafka_replication,
                topic_configs=AUDIT_RETENTION if topic == AUDIT else {},
            )
            try:
                await admin.create_topics([made])
            except TopicAlreadyExistsError:
                continue  # another relay was first
            logger.info("topic created", extra={"topic": topic})
    finally:
        await admin.close()
