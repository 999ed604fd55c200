"""The embedded Kafka: keeps what it acknowledged, and is gone when stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError
from jgo.env import EnvironmentBuilder

from devstack import kafka as module
from devstack.kafka import EmbeddedKafka
from tests.support.stack import alive, wait_for

TOPIC = "devstack"


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(properties={"log.retention.hours": "1"}) as kafka:
        yield kafka


async def produce(kafka: EmbeddedKafka, *values: bytes) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, acks="all", enable_idempotence=True
    )
    async with producer:
        for value in values:
            await producer.send_and_wait(TOPIC, value, partition=0)


async def consume(kafka: EmbeddedKafka, wanted: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
    )
    found: list[bytes | None] = []

    async def enough() -> bool:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            found.extend(record.value for record in records)
        return len(found) >= wanted

    async with consumer:
        await wait_for(enough, timeout_s=20)
    return found


async def test_what_was_acknowledged_survives_a_kill_and_a_restart(kafka: EmbeddedKafka) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    await admin.close()
    bootstrap = kafka.bootstrap

    await produce(kafka, b"one", b"two")
    kafka.kill()
    assert not alive(kafka.pid)
    kafka.start()
    assert kafka.bootstrap == bootstrap
    assert await consume(kafka, 2) == [b"one", b"two"]

    await produce(kafka, b"three")
    kafka.restart()
    assert await consume(kafka, 3) == [b"one", b"two", b"three"]


async def test_a_topic_that_nobody_made_is_not_made_by_sending_to_it(kafka: EmbeddedKafka) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=2000)
    async with producer:
        with pytest.raises((KafkaTimeoutError, UnknownTopicOrPartitionError)):
            await producer.send_and_wait("misspelt", b"lost")


def test_an_interrupted_fetch_of_the_jars_leaves_nothing_that_passes_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(builder: EnvironmentBuilder, _: str) -> None:
        (builder.cache_dir.parent / "half.jar").write_bytes(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setenv("MCP_BROKER_CACHE", str(tmp_path))
    monkeypatch.setattr(EnvironmentBuilder, "from_endpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.classpath()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_its_files_are_for_its_user_only(kafka: EmbeddedKafka) -> None:
    assert (kafka.home / "server.properties").exists()
    assert kafka.home.stat().st_mode & 0o077 == 0


def test_properties_override_the_defaults(kafka: EmbeddedKafka) -> None:
    assert "log.retention.hours=1\n" in (kafka.home / "server.properties").read_text()


def test_nothing_is_left_of_one_that_was_stopped(kafka: EmbeddedKafka) -> None:
    # The last one here, as the others need the broker.
    kafka.stop()
    assert not alive(kafka.pid)
    assert not kafka.home.exists()
