"""Kafka: the topics, and what one that is away looks like."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from app.config import Settings
from app.contract import AUDIT, TOPICS

logger = logging.getLogger(__name__)

KAFKA_AWAY: Final = (KafkaError, OSError, TimeoutError)
"""What a Kafka that is away looks like."""

MESSAGE_BYTES: Final = "max.message.bytes"
OVERHEAD_BYTES: Final = 10_000
"""Of a record's key and headers, and of its batch."""

AUDIT_RETENTION: Final = {"retention.ms": "-1"}
"""Checkpoints anchor the audit trail, so they are kept."""


@asynccontextmanager
async def _administering(settings: Settings) -> AsyncGenerator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap, **settings.kafka_security.client_options()
    )
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def create_topics(settings: Settings) -> None:
    """Create the topics that are missing; refused by Kafka's access rules, it goes on without."""
    async with _administering(settings) as admin:
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
            topic_errors: list[Any] = (await admin.create_topics([made])).to_object()[
                "topic_errors"
            ]
            error = for_code(topic_errors[0]["error_code"])
            if error is NoError:
                logger.info("topic created", extra={"topic": topic})
            elif error is not TopicAlreadyExistsError:  # another relay was first
                # The other topics' events go on.
                logger.warning("topic not created: %s", error.__name__, extra={"topic": topic})


async def topics(settings: Settings) -> set[str]:
    """The topics that there are; asking for one by name could make it, with others' settings."""
    async with _administering(settings) as admin:
        return set(await admin.list_topics())


async def topic_limits(settings: Settings) -> dict[str, int]:
    """`max.message.bytes` of each of our topics that may be read."""
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, {MESSAGE_BYTES: None}) for topic in TOPICS
    ]
    async with _administering(settings) as admin:
        answers = await admin.describe_configs(asked)
    found: dict[str, int] = {}
    for answer in answers:
        resources: list[Any] = answer.to_object()["resources"]
        for one in resources:
            for config in one["config_entries"]:
                if config["config_names"] == MESSAGE_BYTES:
                    found[one["resource_name"]] = int(config["config_value"])
    return found


async def tell_limits(settings: Settings) -> None:
    """Say in the log which topics take less than an event may have."""
    try:
        limits = await topic_limits(settings)
    except KAFKA_AWAY as error:  # access rules may keep it to themselves
        logger.info("the topics' limits were not read: %r", error)
        return
    for topic, limit in limits.items():
        if limit < settings.event_bytes_max + OVERHEAD_BYTES:
            logger.warning(
                "a topic takes less than our events may have: raise its max.message.bytes, or"
                " lower MCP_BROKER_EVENT_BYTES_MAX",
                extra={"topic": topic, "max_message_bytes": limit},
            )
