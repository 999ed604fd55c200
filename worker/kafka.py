"""Kafka, as the worker reads it: commands, and what is said of running ones."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from app.config.worker import WorkerSettings
from app.contract import CONTROL

logger = logging.getLogger(__name__)

KAFKA_AWAY: Final = (KafkaError, OSError, TimeoutError)
AGAIN_S: Final = 1.0
METADATA_MS: Final = 10_000
"""How soon a topic is found that was made after the worker began."""


def commands_consumer(settings: WorkerSettings, *, client_id: str) -> AIOKafkaConsumer:
    """The group's reader of commands; it commits nothing by itself."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        client_id=client_id,
        group_id=settings.worker_group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=METADATA_MS,
        **settings.kafka_security.client_options(),
    )


async def listen_to_control(
    settings: WorkerSettings, heard: Callable[[dict[str, Any]], None], *, client_id: str
) -> None:
    """Hear what is said of running calls, for as long as this task lives.

    Every worker reads all of it from now on: what was said before is of no run of this process.
    """

    async def read() -> None:
        consumer = AIOKafkaConsumer(
            CONTROL,
            bootstrap_servers=settings.kafka_bootstrap,
            client_id=client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            metadata_max_age_ms=METADATA_MS,
            **settings.kafka_security.client_options(),
        )
        try:
            await consumer.start()
            async for record in consumer:
                try:
                    heard(orjson.loads(record.value or b""))
                except (AttributeError, KeyError, TypeError, ValueError):
                    logger.warning("a control message cannot be read")
        finally:
            await consumer.stop()

    await keep(read)


async def keep(read: Callable[[], Awaitable[None]]) -> None:
    """Read again whenever Kafka is away, or a reader fails."""
    while True:
        try:
            await read()
        except KAFKA_AWAY as error:
            logger.warning("kafka is away: %r", error)
        except Exception:  # a reader that fails begins anew
            logger.exception("a reader of kafka failed")
        await asyncio.sleep(AGAIN_S)
