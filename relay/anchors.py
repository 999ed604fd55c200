"""`broker-relay anchors`: what Kafka has kept of every seal, for `broker audit verify --anchors`.

The app does not speak Kafka, so the check is two steps; an auditor takes the first with Kafka
credentials of their own, on a machine of their own.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Final

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from app.audit.anchoring import Anchor
from app.audit.bundle import AnchorLine, anchors_among
from app.config import Settings
from app.contract import AUDIT
from relay.kafka import topics

logger = logging.getLogger(__name__)

QUIET_S: Final = 30.0
"""Kafka that gives nothing for so long has failed."""


NEWEST: Final = 10_000
"""Anchors that a relay compares with its database before it seals."""


async def read(
    settings: Settings, *, newest: int | None = None
) -> AsyncGenerator[ConsumerRecord[bytes, bytes]]:
    """Every message of mcp.audit from its beginning, or the newest, to where it ends now.

    Raises:
        TimeoutError: Kafka stopped answering before the end.
        LookupError: there is no such topic.
    """
    consumer = AIOKafkaConsumer(
        AUDIT,
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **settings.kafka_security.client_options(),
    )
    await consumer.start()
    try:
        places = consumer.assignment()
        if not places:
            raise LookupError(f"Kafka has no topic {AUDIT}.")
        ends = await consumer.end_offsets(places)
        starts = await consumer.beginning_offsets(places)
        left = {place for place in places if starts[place] < ends[place]}
        for place in left if newest is not None else ():
            consumer.seek(place, max(starts[place], ends[place] - (newest or 0)))
        while left:
            batches: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = {}
            async with asyncio.timeout(QUIET_S):
                while not batches:
                    batches = await consumer.getmany(*left, timeout_ms=1000)
            for records in batches.values():
                for record in records:
                    yield record
            left = {place for place in left if await consumer.position(place) < ends[place]}
    finally:
        await consumer.stop()


async def newest(settings: Settings) -> list[Anchor]:
    """The newest anchors that Kafka has, oldest first; none where it has no topic for them yet.

    Raises:
        KafkaError: it does not answer, or does not let this relay read the topic.
    """
    if AUDIT not in await topics(settings):
        return []
    lines = [record.value or b"" async for record in read(settings, newest=NEWEST)]
    return list(anchors_among(lines))  # others write there, too


async def write(settings: Settings, file: BinaryIO) -> int:
    """Write each anchor with its place in Kafka, a line each; how many.

    What is not an anchor is passed over: whoever may write to the topic must not be able to keep
    an auditor from reading it.
    """
    count = 0
    async for record in read(settings):
        try:
            AnchorLine.model_validate_json(record.value or b"")
            anchor = orjson.loads(record.value or b"")
        except ValueError:
            logger.warning("no anchor at %s:%s", record.partition, record.offset)
            continue
        kafka = {"partition": record.partition, "offset": record.offset, "at": record.timestamp}
        file.write(orjson.dumps(anchor | {"kafka": kafka}) + b"\n")
        count += 1
    return count


async def export(settings: Settings, path: Path) -> int:
    """Write all anchors to a new file; how many.

    Raises:
        FileExistsError: an older export is never overwritten.
    """
    with path.open("xb") as file:
        return await write(settings, file)
