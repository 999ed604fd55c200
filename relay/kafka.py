"""Kafka: how the relay is let in, and the topics."""

import logging
import ssl
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code
from aiokafka.helpers import create_ssl_context

from app.config import Settings
from app.contract import AUDIT, TOPICS
from app.trust import KafkaSecurity

logger = logging.getLogger(__name__)

KAFKA_AWAY: Final = (KafkaError, OSError, TimeoutError)
"""What a Kafka that is away looks like."""

MESSAGE_BYTES: Final = "max.message.bytes"
OVERHEAD_BYTES: Final = 10_000
"""Of a record's key and headers, and of its batch."""

AUDIT_RETENTION: Final = {"retention.ms": "-1"}
"""Checkpoints anchor the audit trail, so they are kept."""


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
            told: list[Any] = (await admin.create_topics([made])).to_object()["topic_errors"]
            error = for_code(told[0]["error_code"])
            if error is NoError:
                logger.info("topic created", extra={"topic": topic})
            elif error is not TopicAlreadyExistsError:  # another relay was first
                # The other topics' events go on.
                logger.warning("topic not created: %s", error.__name__, extra={"topic": topic})
    finally:
        await admin.close()


async def topic_limits(settings: Settings) -> dict[str, int]:
    """`max.message.bytes` of each of our topics that may be read."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap, **security(settings.kafka_security)
    )
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, {MESSAGE_BYTES: None}) for topic in TOPICS
    ]
    try:
        await admin.start()
        answers = await admin.describe_configs(asked)
    finally:
        await admin.close()
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
