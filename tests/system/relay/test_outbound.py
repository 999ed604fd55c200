"""From the outbox to Kafka: everything, in shape, whatever goes away."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from app.commands.store.dispatch_claim import SPARED
from app.config import Settings
from app.edges.parts import Parts
from app.errors import QueueFullError
from devstack.kafka import EmbeddedKafka
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import EVE, accept, echo, fetch, finish
from tests.support.stack import wait_for
from tests.system.relay.conftest import Relay, open_relay


async def read(bootstrap: str, topic: str, wanted: set[UUID], timeout_s: float = 20) -> list[Any]:
    """The topic's records of these commands, once each has one."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    found: list[Any] = []
    try:
        async with asyncio.timeout(timeout_s):
            while not wanted <= {UUID(one["correlation_id"]) for _, one in found}:
                record = await consumer.getone()
                body = orjson.loads(record.value or b"")
                if UUID(body["correlation_id"]) in wanted:
                    found.append((record, body))
    finally:
        await consumer.stop()
    return found


async def drained(database: Dsns) -> bool:
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM outbox")
    return row["n"] == 0


@pytest.mark.guarantee("relay:envelope")
async def test_a_command_reaches_kafka_with_its_key_headers_and_fields(
    broker: Parts, relay: Relay, database: Dsns, kafka_bootstrap: str
) -> None:
    accepted = await accept(broker, echo("hi", ordering_key="k", priority="high"))
    [(record, body)] = await read(kafka_bootstrap, "mcp.commands", {accepted.written.id})
    headers = {name: value.decode() for name, value in record.headers}
    assert record.key == b"demo:k"
    assert UUID(headers["message_uuid"])
    assert headers["correlation_id"] == body["correlation_id"] == str(accepted.written.id)
    assert (headers["tenant_id"], headers["ordering_key"], headers["attempt"]) == ("demo", "k", "1")
    assert (body["envelope_version"], body["tool"], body["method"]) == ("1.0", "probe", "echo")
    assert (body["args"], body["priority"], body["fence"]) == ({"text": "hi"}, "high", 1)
    assert await wait_for(lambda: drained(database))
    [event] = await fetch(
        database.owner, "SELECT body FROM audit.events WHERE type = 'command.dispatched'"
    )
    place = orjson.loads(event["body"])
    assert (place["partition"], place["offset"]) == (record.partition, record.offset)


async def test_a_result_is_published_too(broker: Parts, relay: Relay, kafka_bootstrap: str) -> None:
    one = (await accept(broker, echo())).written.id
    await finish(broker, one, result={"text": "hi"})
    [(_, body)] = await read(kafka_bootstrap, "mcp.results", {one})
    assert (body["state"], body["result"]) == ("succeeded", {"text": "hi"})


async def test_arguments_by_reference_stay_out_of_kafka(
    broker: Parts, relay: Relay, database: Dsns, kafka_bootstrap: str
) -> None:
    await fetch(
        database.owner,
        'UPDATE tools SET policy = policy || \'{"args": "by_reference"}\''
        " WHERE name = 'probe_echo'",
    )
    one = (await accept(broker, echo("secret"))).written.id
    [(record, body)] = await read(kafka_bootstrap, "mcp.commands", {one})
    assert body["args"] == {}
    assert b"secret" not in record.value


@pytest.mark.guarantee("relay:once-each")
async def test_three_relays_publish_each_of_a_thousand_rows_once(
    broker: Parts, database: Dsns, relay_settings: Settings, kafka_bootstrap: str
) -> None:
    await fetch(database.owner, "UPDATE tenants SET in_flight_max = 5000")
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 5000")
    wide = relay_settings.model_copy(update={"relay_batch_max": 50})
    accepted = await asyncio.gather(*(accept(broker, echo(str(n))) for n in range(1000)))
    ids = {one.written.id for one in accepted}
    async with open_relay(wide, "a"), open_relay(wide, "b"), open_relay(wide, "c"):
        found = await read(kafka_bootstrap, "mcp.commands", ids, 60)
        assert await wait_for(lambda: drained(database), 20)
    assert len(found) == 1000
    [row] = await fetch(
        database.owner, "SELECT count(*) AS n FROM commands WHERE state = 'dispatched'"
    )
    assert row["n"] == 1000


@pytest.mark.guarantee("relay:priority")
async def test_a_critical_call_overtakes_ten_thousand_low_ones(
    broker: Parts, database: Dsns, relay_settings: Settings, kafka_bootstrap: str
) -> None:
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 5")
    await fetch(database.owner, "UPDATE tenants SET queued_max = 20000")
    for part in range(10):  # no more at once than the process lets wait
        low = [accept(broker, echo(f"{part}.{n}", priority="low")) for n in range(1000)]
        await asyncio.gather(*low)
    [waiting] = await fetch(database.owner, "SELECT count(*) AS n FROM commands")
    assert waiting["n"] == 10_000
    critical = (await accept(broker, echo("now", priority="critical"))).written.id
    async with open_relay(relay_settings, "a"):
        await read(kafka_bootstrap, "mcp.commands", {critical})
        rows = await fetch(
            database.owner,
            "SELECT id FROM commands WHERE state = 'dispatched' OR id = $1",
            critical,
        )
    assert len(rows) <= 5, "the window holds, and the critical call was in the first one"


@pytest.mark.guarantee("relay:no-starving")
async def test_a_call_that_has_waited_long_goes_though_critical_ones_never_end(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 1")
    low = (await accept(broker, echo("low", priority="low"))).written.id
    await fetch(database.owner, "UPDATE outbox SET created_at = now() - interval '10 minutes'")
    for n in range(20):
        await accept(broker, echo(str(n), priority="critical"))

    async def dispatched() -> list[UUID]:
        found = "SELECT id FROM commands WHERE state = 'dispatched'"
        return [row["id"] for row in await fetch(database.owner, found)]

    went: list[UUID] = []
    async with open_relay(relay_settings, "a"):
        while low not in went:
            [one] = await wait_for(dispatched)
            await finish(broker, one, result={"text": "x"})
            went.append(one)
    assert len(went) <= 2, "every other batch takes what has waited longest for its tier"


@pytest.mark.guarantee("relay:windows")
async def test_windows_of_tool_and_tenant_hold(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    await fetch(database.owner, "UPDATE tenants SET in_flight_max = 7")
    await asyncio.gather(*(accept(broker, echo(str(n))) for n in range(50)))

    async def dispatched() -> int:
        rows = await fetch(
            database.owner, "SELECT count(*) AS n FROM commands WHERE state = 'dispatched'"
        )
        return rows[0]["n"]

    async with open_relay(relay_settings, "a"), open_relay(relay_settings, "b"):
        assert await wait_for(lambda: _is(dispatched, 7))
        [one] = await fetch(
            database.owner, "SELECT id FROM commands WHERE state = 'dispatched' LIMIT 1"
        )
        await finish(broker, one["id"], result={"text": "x"})
        assert await wait_for(lambda: _is(dispatched, 7))
        [row] = await fetch(
            database.owner, "SELECT count(*) AS n FROM outbox WHERE status = 'ready'"
        )
        assert row["n"] == 42


async def _is(count: Any, wanted: int) -> bool:
    return await count() == wanted


@pytest.mark.guarantee("relay:fair-share")
async def test_a_tenant_with_many_waiting_calls_does_not_hold_up_another(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 24")  # three of them are spared
    await asyncio.gather(*(accept(broker, echo(str(n))) for n in range(2000)))
    others = [(await accept(broker, echo(str(n)), EVE)).written.id for n in range(10)]

    async def all_out() -> bool:
        rows = await fetch(
            database.owner,
            "SELECT count(*) AS n FROM commands WHERE state = 'dispatched' AND id = ANY ($1)",
            others,
        )
        return rows[0]["n"] == 10

    async with open_relay(relay_settings, "a"):
        assert await wait_for(all_out), "half of what may be filled is the other tenant's"


@pytest.mark.guarantee("relay:spared")
async def test_a_tenants_first_call_goes_though_another_tenant_has_filled_the_window(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    window = 2 * SPARED
    await fetch(database.owner, f"UPDATE tools SET in_flight_max = {window}")
    await asyncio.gather(*(accept(broker, echo(str(n), priority="critical")) for n in range(100)))

    async def dispatched() -> int:
        rows = await fetch(
            database.owner, "SELECT count(*) AS n FROM commands WHERE state = 'dispatched'"
        )
        return rows[0]["n"]

    async with open_relay(relay_settings, "a"):
        assert await wait_for(lambda: _is(dispatched, window - 2))
        one = (await accept(broker, echo("first", priority="low"), EVE)).written.id
        await accept(broker, echo("second", priority="low"), EVE)  # behind it, whenever it is seen

        async def gone() -> bool:
            rows = await fetch(database.owner, "SELECT state FROM commands WHERE id = $1", one)
            return rows[0]["state"] == "dispatched"

        assert await wait_for(gone), "no call of the other tenant's has ended"
        assert await dispatched() == window - 1, "its second one waits like all others"


@pytest.mark.guarantee("relay:rate")
async def test_a_tenants_rate_bounds_its_dispatches(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    await fetch(database.owner, "UPDATE tenants SET rate_per_s = 0.001, rate_burst = 3")
    await asyncio.gather(*(accept(broker, echo(str(n))) for n in range(10)))

    async def out() -> bool:
        rows = await fetch(
            database.owner, "SELECT count(*) AS n FROM commands WHERE state = 'dispatched'"
        )
        return rows[0]["n"] == 3

    async with open_relay(relay_settings, "a"):
        assert await wait_for(out)
        budget = await fetch(database.owner, "SELECT tokens FROM tenant_budgets")
        assert budget[0]["tokens"] < 1


@pytest.mark.guarantee("relay:at-least-once")
async def test_kafka_killed_under_load_loses_nothing_and_intake_goes_on(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    kafka = EmbeddedKafka()
    await asyncio.to_thread(kafka.start)
    try:
        await fetch(database.owner, "UPDATE tenants SET in_flight_max = 5000")
        await fetch(database.owner, "UPDATE tools SET in_flight_max = 5000")
        settings = settings_of(
            database.relay,
            issuer,
            kafka_bootstrap=kafka.bootstrap,
            publish_timeout_s=3,
            relay_batch_max=20,
        )
        async with open_relay(settings, f"a-{uuid4()}"):
            before = [(await accept(broker, echo(f"a{n}"))).written.id for n in range(50)]
            kafka.kill()
            after = [(await accept(broker, echo(f"b{n}"))).written.id for n in range(50)]
            await asyncio.to_thread(kafka.start)
            wanted = {*before, *after}
            found = await read(kafka.bootstrap, "mcp.commands", wanted, 60)
            assert {UUID(body["correlation_id"]) for _, body in found} == wanted
            assert await wait_for(lambda: drained(database), 30)
    finally:
        await asyncio.to_thread(kafka.stop)


@pytest.mark.guarantee("queue:backpressure")
async def test_while_no_adapter_works_calls_are_taken_up_to_the_bound_and_all_run_after(
    broker: Parts, database: Dsns, relay_settings: Settings
) -> None:
    window, bound = 20, 50
    await fetch(database.owner, f"UPDATE tools SET in_flight_max = {window}")
    await fetch(database.owner, f"UPDATE tenants SET queued_max = {bound}")

    async def dispatched() -> list[UUID]:
        rows = await fetch(database.owner, "SELECT id FROM commands WHERE state = 'dispatched'")
        return [row["id"] for row in rows]

    async with open_relay(relay_settings, f"a-{uuid4()}"):
        accepted: set[UUID] = set()

        async def accept_many() -> None:
            while len(accepted) < 5000:
                accepted.add((await accept(broker, echo(str(len(accepted))))).written.id)

        with pytest.raises(QueueFullError) as refused:
            await accept_many()
        assert refused.value.fields["retry_after_s"] >= 1
        assert len(accepted) >= bound

        async def full() -> bool:
            return len(await dispatched()) == window - window // SPARED

        assert await wait_for(full), "what waits, waits where it can be ordered and cancelled"
        [row] = await fetch(database.owner, "SELECT count(*) AS n FROM commands")
        assert row["n"] == len(accepted), "what was refused is not there"

        async def all_done() -> bool:
            for one in await dispatched():
                await finish(broker, one, result={"text": "x"})
                accepted.remove(one)
            await fetch(database.owner, "SELECT pg_notify('broker_outbox', '')")
            return not accepted

        assert await wait_for(all_done, 60)


@pytest.mark.guarantee("relay:at-least-once")
async def test_rows_of_a_relay_that_died_after_its_claim_go_out_by_another(
    broker: Parts, database: Dsns, relay: Relay, kafka_bootstrap: str
) -> None:
    from app.commands.store import dispatch_record

    one = (await accept(broker, echo("orphan", ordering_key="o"))).written.id
    # A dead relay's claim: taken out of the living one's reach, and its lease long over.
    await fetch(
        database.owner,
        "UPDATE outbox SET status = 'claimed', claimed_by = 'dead',"
        " claimed_until = now() - interval '1 minute' WHERE command_id = $1",
        one,
    )
    assert await dispatch_record.give_back_expired(relay.database.pool, limit=10, lease_s=30) >= 0
    relay.outbound.wake()
    assert await read(kafka_bootstrap, "mcp.commands", {one})


@pytest.mark.guarantee("ordering:delivery")
async def test_commands_ordered_by_delivery_reach_kafka_in_order_without_waiting_for_their_ends(
    broker: Parts, database: Dsns, relay_settings: Settings, kafka_bootstrap: str
) -> None:
    await fetch(
        database.owner,
        'UPDATE tools SET policy = policy || \'{"ordering": "delivery"}\''
        " WHERE name = 'probe_echo'",
    )
    ids = [
        (await accept(broker, echo(str(n), ordering_key="d", idempotency_key=str(n)))).written.id
        for n in range(5)
    ]
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM outbox WHERE status = 'ready'")
    assert row["n"] == 1
    async with open_relay(relay_settings, "a"), open_relay(relay_settings, "b"):
        found = await read(kafka_bootstrap, "mcp.commands", set(ids))
    assert len({record.partition for record, _ in found}) == 1
    assert [UUID(body["correlation_id"]) for _, body in found] == ids
