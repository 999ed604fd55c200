"""What Kafka does not take stands aside, with its reason; everything else goes on, once."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.commands.store import parked as parked_rows
from app.config import Settings
from app.contract import TOPICS
from app.edges.parts import Parts
from app.postgres.migrate import connected
from devstack.kafka import EmbeddedKafka
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.kafka import topic_limits
from tests.conftest import settings_of
from tests.support.calls import accept, echo, fetch, finish
from tests.support.stack import wait_for
from tests.system.relay.conftest import Relay, open_relay

pytestmark = pytest.mark.chaos  # topics that are gone, or as small as Kafka makes them

SMALL = 50_000
"""Of a topic whose limit is below what our events may be."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """A broker of these tests' own, with the limits that Kafka has by default."""
    with EmbeddedKafka() as broker:
        yield broker


@asynccontextmanager
async def administering(kafka: EmbeddedKafka) -> AsyncGenerator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete_topics(kafka: EmbeddedKafka, *topics: str) -> None:
    async with administering(kafka) as admin:
        await admin.delete_topics(list(topics))

        async def gone() -> bool:
            return not set(topics) & set(await admin.list_topics())

        assert await wait_for(gone)


async def make_topics(kafka: EmbeddedKafka, *topics: str, **configs: str) -> None:
    """These topics, empty, and none other of ours."""
    await delete_topics(kafka, *TOPICS)
    async with administering(kafka) as admin:
        for topic in topics:
            await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])

        async def there() -> bool:
            return set(topics) <= set(await admin.list_topics())

        assert await wait_for(there)


async def everything(kafka: EmbeddedKafka, topic: str) -> list[dict[str, Any]]:
    """All records of a topic up to its end now."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        ends = await consumer.end_offsets(places)
        found: list[dict[str, Any]] = []
        while [one for one in places if await consumer.position(one) < ends[one]]:
            got = await consumer.getmany(timeout_ms=200)
            found += [orjson.loads(record.value or b"") for some in got.values() for record in some]
        return found
    finally:
        await consumer.stop()


def settings_for(kafka: EmbeddedKafka, database: Dsns, issuer: DevIssuer, **more: Any) -> Settings:
    return settings_of(
        database.relay, issuer, kafka_bootstrap=kafka.bootstrap, claim_wait_s=60, **more
    )


async def left(database: Dsns, *statuses: str) -> list[Any]:
    return await fetch(
        database.owner,
        "SELECT * FROM outbox WHERE status = ANY ($1) OR $1 = '{}' ORDER BY id",
        list(statuses),
    )


async def none_left(database: Dsns) -> bool:
    return not await left(database, "ready", "claimed")


@pytest.mark.guarantee("relay:by-reference")
async def test_a_result_that_no_topic_takes_at_its_defaults_goes_as_a_reference(
    broker: Parts, database: Dsns, issuer: DevIssuer, kafka: EmbeddedKafka
) -> None:
    large = (await accept(broker, echo("large"))).written.id
    failed = (await accept(broker, echo("failed"))).written.id
    small = (await accept(broker, echo("small"))).written.id
    await finish(broker, large, result={"text": "x" * 2_000_000})
    error = {"code": "boom", "message": "m" * 2_000_000, "retryable": False}
    await finish(broker, failed, error=error)
    await finish(broker, small, result={"text": "x"})
    async with open_relay(settings_for(kafka, database, issuer), "a"):
        assert await wait_for(lambda: none_left(database), 20)
    assert not await left(database)
    said = {UUID(one["correlation_id"]): one for one in await everything(kafka, "mcp.results")}
    assert (said[large]["state"], said[large]["result"]) == ("succeeded", None)
    assert said[large]["result_by_reference"] is True
    assert said[failed]["error"]["code"] == "boom"
    assert len(said[failed]["error"]["message"]) <= 1000
    assert said[failed]["result_by_reference"] is True
    assert said[small]["result"] == {"text": "x"}
    assert "result_by_reference" not in said[small]


@pytest.mark.guarantee("relay:refused-alone")
async def test_a_row_that_kafka_refuses_is_parked_and_the_rest_of_its_batch_goes_once(
    broker: Parts, database: Dsns, issuer: DevIssuer, kafka: EmbeddedKafka
) -> None:
    await make_topics(kafka, "mcp.results", **{"max.message.bytes": str(SMALL)})
    ids = [(await accept(broker, echo(str(n)))).written.id for n in range(20)]
    for n, one in enumerate(ids):
        await finish(broker, one, result={"text": "x" * (2 * SMALL if n == 3 else 10)})
    async with open_relay(settings_for(kafka, database, issuer), "a") as relay:
        assert await wait_for(lambda: none_left(database), 20)
        later = (await accept(broker, echo("later"))).written.id
        await finish(broker, later, result={"text": "y"})
        assert await wait_for(lambda: none_left(database), 20)
        [parked] = await left(database)
        assert (parked["status"], parked["command_id"]) == ("parked", ids[3])
        assert "MessageSizeTooLarge" in parked["refusal"]
        told = Counter(one["correlation_id"] for one in await everything(kafka, "mcp.results"))
        assert told == {str(one): 1 for one in [*ids, later] if one != ids[3]}
        [event] = await fetch(
            database.owner, "SELECT * FROM audit.events WHERE type = 'outbox.parked'"
        )
        assert event["command_id"] == ids[3]
        # An operator mends the topic (here the relay makes it anew), and has the row go.
        await delete_topics(kafka, "mcp.results")
        async with connected(database.owner) as engine, engine.begin() as conn:
            went = await parked_rows.redrive(conn, ids=None, topic="mcp.results", reason="mended")
        assert went == [parked["id"]]
        assert await wait_for(lambda: _gone(database, relay), 40)
        found = await everything(kafka, "mcp.results")
        assert {one["correlation_id"] for one in found} == {str(ids[3])}
        assert await fetch(
            database.owner, "SELECT * FROM audit.events WHERE type = 'outbox.redriven'"
        )


async def _gone(database: Dsns, relay: Relay) -> bool:
    await relay.clock.tick()
    relay.outbound.wake()
    return not await left(database)


@pytest.mark.guarantee("relay:refused-alone")
async def test_a_topic_that_is_missing_holds_up_no_other_and_is_found_when_it_is_there(
    broker: Parts, database: Dsns, issuer: DevIssuer, kafka: EmbeddedKafka
) -> None:
    await make_topics(kafka, "mcp.results", "mcp.control", "mcp.audit", "mcp.deadletter")
    settings = settings_for(kafka, database, issuer, kafka_create_topics=False)
    waiting = [(await accept(broker, echo(str(n)))).written.id for n in range(3)]
    done = (await accept(broker, echo("done"))).written.id
    await finish(broker, done, result={"text": "done"})
    async with open_relay(settings, "a") as relay:
        assert await wait_for(lambda: _told(database, "command", 3), 20)
        for row in await left(database, "delayed"):
            assert "mcp.commands" in row["refusal"]
        assert [one["correlation_id"] for one in await everything(kafka, "mcp.results")] == [
            str(done)
        ]
        async with administering(kafka) as admin:
            await admin.create_topics([NewTopic("mcp.commands", 1, 1)])
        assert await wait_for(lambda: _gone(database, relay), 30)
    told = {one["correlation_id"] for one in await everything(kafka, "mcp.commands")}
    assert told == {str(one) for one in waiting}


async def _told(database: Dsns, kind: str, number: int) -> bool:
    rows = await left(database, "delayed")
    return sum(row["kind"] == kind for row in rows) == number


@pytest.mark.guarantee("relay:refused-alone")
async def test_a_topic_deleted_while_the_relay_runs_is_made_again_and_events_go_on(
    broker: Parts, database: Dsns, issuer: DevIssuer, kafka: EmbeddedKafka
) -> None:
    await make_topics(kafka)
    async with open_relay(settings_for(kafka, database, issuer), "a") as relay:
        first = (await accept(broker, echo("first"))).written.id
        await finish(broker, first, result={"text": "x"})
        assert await wait_for(lambda: _gone(database, relay), 20)
        await delete_topics(kafka, "mcp.results")
        second = (await accept(broker, echo("second"))).written.id
        await finish(broker, second, result={"text": "x"})
        assert await wait_for(lambda: _gone(database, relay), 40)
    assert str(second) in {one["correlation_id"] for one in await everything(kafka, "mcp.results")}


async def test_limits_of_topics_are_read(
    database: Dsns, issuer: DevIssuer, kafka: EmbeddedKafka
) -> None:
    await make_topics(kafka, "mcp.results", **{"max.message.bytes": str(SMALL)})

    async def read() -> bool:
        limits = await topic_limits(settings_for(kafka, database, issuer))
        return limits == {"mcp.results": SMALL}

    assert await wait_for(read)
