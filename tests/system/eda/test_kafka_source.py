"""The event source by itself, in this process, on a real Kafka."""

import asyncio
import runpy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app import assets
from tests.support.stack import wait_for

PLUGIN = (
    assets.root()
    / "rulebooks/collections/ansible_collections/mcpbroker/eda"
    / "extensions/eda/plugins/event_source/kafka.py"
)
PARTITIONS = 2


class Engine:
    """The rule engine's side of the queue: a queue of one, which a test empties."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def take(self) -> Any:
        async with asyncio.timeout(15):
            return await self.queue.get()

    async def body(self) -> Any:
        return (await self.take())["body"]

    async def idle(self) -> bool:
        """Whether nothing comes for as long as a commit may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await self.queue.get()
                return False
        return True


class Topic:
    """A topic of the test's own and a group on it."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.name = f"source-{uuid4()}"
        self.group = f"group-{uuid4()}"

    async def make(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(self.name, PARTITIONS, 1)])
        await admin.close()

    async def send(self, *values: Any, partition: int = 0, **headers: str) -> None:
        named = [(name, text.encode()) for name, text in headers.items()]
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for value in values:
                data = orjson.dumps(value) if isinstance(value, dict) else value
                await producer.send_and_wait(
                    self.name, data, partition=partition, key=b"key", headers=named
                )

    async def committed(self, partition: int = 0) -> int | None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=self.group, enable_auto_commit=False
        )
        async with consumer:
            place = TopicPartition(self.name, partition)
            consumer.assign([place])
            return await consumer.committed(place)

    @asynccontextmanager
    async def source(self, engine: Engine | None = None, **args: Any) -> AsyncGenerator[Engine]:
        """A source that runs; it is cancelled as ansible-rulebook does it."""
        engine = engine or Engine()
        given = {"brokers": [self.bootstrap], "topic": self.name, "group_id": self.group}
        main = runpy.run_path(str(PLUGIN))["main"]
        task = asyncio.create_task(main(engine.queue, given | args))
        try:
            yield engine
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def topic(kafka_bootstrap: str) -> Topic:
    made = Topic(kafka_bootstrap)
    await made.make()
    return made


async def test_a_record_becomes_an_event_with_its_headers_and_uuid(topic: Topic) -> None:
    message_uuid = str(uuid4())
    await topic.send({"tool": "git"}, message_uuid=message_uuid, tenant_id="demo")
    await topic.send({"tool": "git"})
    host, _, port = topic.bootstrap.rpartition(":")
    # By the options that ansible.eda.kafka has.
    async with topic.source(brokers=None, host=host, port=port) as engine:
        event = await engine.take()
        without = await engine.take()
    assert event["body"] == {"tool": "git"}
    assert event["meta"]["headers"] == {"message_uuid": message_uuid, "tenant_id": "demo"}
    assert event["meta"]["uuid"] == message_uuid
    assert event["meta"]["source_offset"] == f"{topic.name}:0:0"
    assert UUID(without["meta"]["uuid"]).version == 5, "made of its place in the topic"


@pytest.mark.parametrize(
    "poison",
    [None, b"", b"not json", b"[1]", b"{}", b"null", b"\xff", b"[" * 50_000, b"{{ x }}"],
)
async def test_a_record_that_is_no_json_object_is_handed_on_as_unparseable(
    topic: Topic, poison: bytes | None
) -> None:
    await topic.send(poison, {"next": 1})
    async with topic.source() as engine:
        [(name, shown)] = (await engine.body()).items()
        assert name == "unparseable"
        assert "{{" not in shown
        assert await engine.body() == {"next": 1}


async def test_an_offset_is_committed_once_the_engine_has_taken_the_event(topic: Topic) -> None:
    await topic.send(*({"n": n} for n in range(3)))

    async def committed(offset: int) -> None:
        async def done() -> bool:
            return await topic.committed() == offset

        await wait_for(done)

    async with topic.source() as engine:
        assert await engine.body() == {"n": 0}
        await committed(1)
        assert [await engine.body() for _ in range(2)] == [{"n": 1}, {"n": 2}]
        await committed(3)


async def test_a_held_back_engine_holds_the_source(topic: Topic) -> None:
    await topic.send(*({"n": n} for n in range(50)))
    async with topic.source() as engine:
        assert await engine.body() == {"n": 0}
        await wait_for(lambda: asyncio.sleep(0, engine.queue.full()))
        # Longer than a period of commits.
        await asyncio.sleep(1.5)
        assert (await topic.committed() or 0) <= 1, "what waits in the queue is not taken"
    async with topic.source() as engine:
        left = [(await engine.body())["n"] for _ in range(49)]
    assert left[-49:] == list(range(1, 50)), "what was not taken comes again"


@pytest.mark.guarantee("eda:source-restarts")
async def test_a_source_that_fails_says_so_and_begins_anew(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsOnce(asyncio.Queue[Any]):
        failed = False

        async def put(self, item: Any) -> None:
            if not self.failed:
                self.failed = True
                raise RuntimeError("a filter has failed")
            await super().put(item)

    broken = Engine()
    broken.queue = FailsOnce(1)
    await topic.send({"n": 0})
    async with topic.source(broken) as engine:
        assert await engine.body() == {"n": 0}, "it was not taken, so it comes again"
    assert "a source has failed, and is started again" in caplog.text
    assert "a filter has failed" in caplog.text


async def test_with_feedback_an_offset_is_committed_when_the_engine_acknowledges(
    topic: Topic,
) -> None:
    await topic.send({"n": 0}, {"n": 1})
    feedback: asyncio.Queue[Any] = asyncio.Queue()
    async with topic.source(feedback=True, eda_feedback_queue=feedback) as engine:
        assert await engine.body() == {"n": 0}
        assert await engine.idle(), "the next one waits for the acknowledgement"
        assert await topic.committed() is None
        await feedback.put("taken")
        assert await engine.body() == {"n": 1}
    async with topic.source() as engine:
        assert await engine.body() == {"n": 1}


async def test_sources_of_one_group_share_the_partitions_and_take_over(
    topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    async def assigned(*counts: int) -> None:
        """Wait until partitions were given out like this."""

        async def done() -> bool:
            printed.extend(capsys.readouterr().out.splitlines())
            lines = [f"mcpbroker.eda.kafka: assigned {count} partitions" for count in counts]
            return printed[-len(counts) :] == lines

        await wait_for(done, 20)

    async with topic.source() as first:
        await assigned(2)
        await topic.send({"n": 0}, {"n": 1})
        assert [await first.body() for _ in range(2)] == [{"n": 0}, {"n": 1}]
        async with topic.source() as second:
            await assigned(1, 1)
            for partition in range(PARTITIONS):
                await topic.send({"both": partition}, partition=partition)
            both = [await first.body(), await second.body()]
            assert sorted(event["both"] for event in both) == [0, 1], "none of the old ones again"
        await assigned(2)
        for partition in range(PARTITIONS):
            await topic.send({"after": partition}, partition=partition)
        seen: list[Any] = []
        while not {"after 0", "after 1"} <= {f"after {event.get('after')}" for event in seen}:
            seen.append(await first.body())


async def test_a_topic_that_is_made_later_is_read(kafka_bootstrap: str) -> None:
    topic = Topic(kafka_bootstrap)
    async with topic.source(metadata_max_age_ms=200) as engine:
        await asyncio.sleep(0.5)
        await topic.make()
        await topic.send({"n": 0})
        assert await engine.body() == {"n": 0}


@pytest.mark.parametrize(
    "args",
    [
        {"topic": None},
        {"topics": ["a"]},
        {"brokers": None},
        {"offset": "newest"},
        {"message_format": "avro"},
    ],
)
async def test_options_that_make_no_sense_are_refused(args: dict[str, Any]) -> None:
    main = runpy.run_path(str(PLUGIN))["main"]
    given = {"topic": "t", "brokers": ["127.0.0.1:1"]}
    with pytest.raises(ValueError, match=r"required|offset|json"):
        await main(asyncio.Queue(1), given | args)
