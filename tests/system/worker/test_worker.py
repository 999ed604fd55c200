"""The worker on real parts: a call's life, its ends, and what a worker's own end leaves."""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from app.contract import WORKER_COMMANDS
from app.edges.commands import cancel
from app.edges.parts import Parts
from tests.adapters.command.programs import script
from tests.support.calls import ADA, accept, fetch
from tests.support.offers import MIRROR, call, offer, put
from tests.support.stack import wait_for
from tests.system.worker.conftest import Shop

TWO_WORDS = """import os
os.write(3, b'{"message": "a quarter"}\\n')
os.write(3, b'{"message": "nearly"}\\n')
print(5)"""
AGAIN: dict[str, Any] = {
    "idempotent": True,
    "retry": {"attempts_max": 3, "backoff_s": 0.05},
}


def slow(seconds: float, **more: Any) -> dict[str, Any]:
    """A tool whose work takes so long."""
    return {"adapter": {"kind": "echo", "target": "mirror", "delay_s": seconds}} | more


async def offered(shop: Shop, policy: dict[str, Any] | None = None, **more: Any) -> None:
    await put(shop.database, shop.home, offer(policy, **more), broker=shop.broker)


async def accepted(shop: Shop, text: str = "hi", **more: Any) -> UUID:
    return (await accept(shop.broker, call(text, **more))).written.id


def kinds(events: list[Any]) -> list[str]:
    return [row["type"].removeprefix("command.") for row in events]


@pytest.mark.guarantee("worker:life")
async def test_a_call_is_done_by_its_adapter_and_its_record_is_committed(shop: Shop) -> None:
    await offered(shop)
    worker = shop.start()
    made = await accepted(shop, "hello 🎉")
    row = await shop.until(made, "succeeded")
    assert orjson.loads(row["result"]) == {"text": "hello 🎉"}
    assert row["adapter"].startswith(f"worker:{os.uname().nodename}:{worker.pid}:")
    # Kafka's acknowledgement and the worker's claim race; each is one event.
    assert sorted(kinds(await shop.events(made))) == sorted(
        ["accepted", "dispatched", "claimed", "succeeded"]
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=shop.kafka)
    await admin.start()
    try:

        async def committed() -> bool:
            ends = await all_ends(shop.kafka)
            found = await admin.list_consumer_group_offsets(shop.group)
            at = {place: one.offset for place, one in found.items()}
            return all(at.get(place) == end for place, end in ends.items() if end)

        assert await wait_for(committed, 20)
    finally:
        await admin.close()


async def all_ends(bootstrap: str) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(WORKER_COMMANDS, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        places = consumer.assignment()
        assert places
        return await consumer.end_offsets(places)
    finally:
        await consumer.stop()


@pytest.mark.guarantee("worker:cancel")
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_cancel_ends_the_work_within_a_moment(
    shop: Shop, broker: Parts, *, idempotent: bool
) -> None:
    await offered(shop, {"idempotent": idempotent}, **slow(60))
    shop.start()
    made = await accepted(shop)
    await shop.until(made, "running")
    await cancel(broker, ADA, made, reason="Not wanted.")
    row = await shop.until(made, "cancelled", timeout_s=4)
    assert orjson.loads(row["error"])["code"] == "cancelled"
    assert row["outcome_unknown"] is not idempotent


@pytest.mark.guarantee("worker:cancel")
async def test_work_that_is_late_ends_at_its_deadline(shop: Shop) -> None:
    await offered(shop, AGAIN, **slow(60))
    shop.start()
    made = await accepted(shop, deadline_s=8.0)  # a worker that starts reads its topic first
    await shop.until(made, "running")
    row = await shop.until(made, "timed_out", timeout_s=20)
    assert orjson.loads(row["error"])["code"] == "cancelled", "the worker has ended it"


async def test_progress_is_told_while_the_work_goes_on(shop: Shop) -> None:
    await offered(shop, **slow(1.5))
    shop.start()
    made = await accepted(shop)
    await shop.until(made, "succeeded")
    rows = await fetch(
        shop.database.owner,
        "SELECT stage, percent, message FROM progress WHERE command_id = $1 ORDER BY seq",
        made,
    )
    assert ("running", 0.0, "waiting") in [tuple(row) for row in rows]


async def test_the_last_word_of_progress_is_told_though_the_work_ends_at_once(shop: Shop) -> None:
    """Words are said twice a second at most, and the outcome waits for none of that."""
    python = {"name": "python", "kind": "command", "address": sys.executable}
    more = {"adapter": {"kind": "command", "target": "python", **script(TWO_WORDS)}}
    await offered(shop, targets=[python], **more)
    shop.start()
    made = await accepted(shop)
    await shop.until(made, "succeeded")
    rows = await fetch(
        shop.database.owner,
        "SELECT message FROM progress WHERE command_id = $1 ORDER BY seq",
        made,
    )
    assert [row["message"] for row in rows][-1:] == ["nearly"]


async def test_what_cannot_be_begun_is_tried_again(shop: Shop) -> None:
    patient = {"retry": {"attempts_max": 20, "backoff_s": 0.2, "backoff_max_s": 0.2}}
    await offered(shop, patient)
    made = await accepted(shop)
    await fetch(shop.database.owner, "DELETE FROM targets")
    shop.start()

    async def tried() -> bool:
        return (await shop.row(made))["attempt"] > 1

    assert await wait_for(tried, 20)
    retried = [row["body"] for row in await shop.events(made) if row["type"] == "command.retry"]
    assert orjson.loads(retried[0])["error"]["code"] == "misconfigured"
    await offered(shop, patient)
    await shop.until(made, "succeeded")


@pytest.mark.guarantee("worker:once")
async def test_a_record_that_comes_again_is_worked_on_once(shop: Shop) -> None:
    await offered(shop, **slow(0.3))
    shop.start()
    made = await accepted(shop)
    await shop.until(made, "running", "succeeded")
    body = {"correlation_id": str(made), "attempt": 1, "tenant_id": "demo", "tool": "kind"}
    producer = AIOKafkaProducer(bootstrap_servers=shop.kafka)
    await producer.start()
    for value in (orjson.dumps(body | {"method": "echo"}), b"no command", b"{}"):
        await producer.send_and_wait(WORKER_COMMANDS, value, key=b"again")
    await producer.stop()
    await shop.until(made, "succeeded")
    after = await accepted(shop, "after")
    await shop.until(after, "succeeded")
    assert kinds(await shop.events(made)).count("claimed") == 1


@pytest.mark.guarantee("worker:bounds")
async def test_a_target_has_no_more_calls_at_once_than_it_may(shop: Shop) -> None:
    few = [MIRROR | {"limits": {"calls_max": 2}}]
    await offered(shop, targets=few, **slow(0.3))
    made = [await accepted(shop, str(n)) for n in range(8)]
    shop.start()
    for one in made:
        await shop.until(one, "succeeded")
    moves: list[tuple[Any, int]] = []
    for one in made:
        for row in await shop.events(one):
            if row["type"] == "command.claimed":
                moves.append((row["occurred_at"], 1))
            elif row["type"] == "command.succeeded":
                moves.append((row["occurred_at"], -1))
    assert len(moves) == 2 * len(made)
    at_once = [sum(n for _, n in sorted(moves)[: k + 1]) for k in range(len(moves))]
    assert max(at_once) == 2, "what is claimed has begun"


@pytest.mark.guarantee("worker:drain")
async def test_a_worker_that_stops_finishes_what_it_can_and_gives_back_the_rest(shop: Shop) -> None:
    await offered(shop, AGAIN, **slow(1.5))
    worker = shop.start(MCP_BROKER_WORKER_GRACE_S="10")
    short = await accepted(shop, "short")
    await shop.until(short, "running")
    await asyncio.to_thread(worker.stop)
    assert (await shop.row(short))["state"] == "succeeded", "within the grace"
    worker = shop.start(MCP_BROKER_WORKER_GRACE_S="0.3")
    long = await accepted(shop, "long")
    await shop.until(long, "running")
    worker.send(signal.SIGTERM)
    row = await shop.until(long, "queued", "dispatched", timeout_s=8)
    assert row["attempt"] == 2
    [given_back] = [
        one["body"] for one in await shop.events(long) if one["type"] == "command.retry"
    ]
    assert orjson.loads(given_back)["error"]["code"] == "drained"
    shop.start()
    await shop.until(long, "succeeded")


@pytest.mark.guarantee("worker:drain")
async def test_a_stopped_call_that_must_not_be_made_again_is_told_as_unknown(shop: Shop) -> None:
    await offered(shop, {"retry": {"attempts_max": 3}}, **slow(60))
    worker = shop.start(MCP_BROKER_WORKER_GRACE_S="0.3")
    made = await accepted(shop)
    await shop.until(made, "running")
    worker.send(signal.SIGTERM)
    row = await shop.until(made, "dead_lettered", timeout_s=8)
    assert row["outcome_unknown"]
    assert orjson.loads(row["error"])["code"] == "drained"


@pytest.mark.chaos
@pytest.mark.guarantee("worker:killed")
async def test_what_a_killed_worker_had_is_done_by_another(shop: Shop) -> None:
    await offered(shop, AGAIN, targets=[MIRROR | {"limits": {"calls_max": 5}}], **slow(0.8))
    worker = shop.start()
    made = [await accepted(shop, str(n)) for n in range(20)]

    async def half() -> bool:
        states = [
            row["state"] for row in await fetch(shop.database.owner, "SELECT state FROM commands")
        ]
        return states.count("succeeded") >= 5 and states.count("running") >= 3

    assert await wait_for(half, 30)
    await asyncio.to_thread(worker.kill)
    rows = await fetch(shop.database.owner, "SELECT state FROM commands WHERE state = 'running'")
    assert rows, "it was killed in the middle"
    shop.start()
    lost = 0
    for one in made:
        row = await shop.until(one, "succeeded", timeout_s=40)
        claims = [event for event in await shop.events(one) if event["type"] == "command.claimed"]
        assert [event["attempt"] for event in claims] == list(range(1, row["attempt"] + 1))
        lost += row["attempt"] - 1
    assert 1 <= lost <= 5, "no more than it had claimed"


@pytest.mark.guarantee("worker:leases")
async def test_a_lease_is_kept_for_as_long_as_the_work_takes(shop: Shop) -> None:
    """Three times the lease; nothing is said meanwhile but that it goes on."""
    await offered(shop, **slow(9))
    shop.start()
    made = await accepted(shop)
    row = await shop.until(made, "succeeded")
    assert row["attempt"] == 1
