"""What becomes of deliveries is counted, and is a span of the call's trace."""

import asyncpg
from prometheus_client import REGISTRY

from app.edges.parts import Parts
from relay import gauges
from tests.support.calls import accept, echo, fetch, finish
from tests.support.stack import wait_for
from tests.support.traced import opening
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import OK, Receiver, status
from tests.webhooks.test_delivery import ended, settled

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def sample(name: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(name, labels)
    assert found is not None, name
    return found


def attempts(outcome: str) -> float:
    return sample("mcpbroker_webhook_attempts_total", outcome=outcome)


async def test_attempts_are_counted_by_what_became_of_them(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    before = {one: attempts(one) for one in ("delivered", "http_5xx")}
    given_up = sample("mcpbroker_webhooks_abandoned_total")
    receiver.says(status(500), status(503), OK)
    made = await hooks.add(receiver.url)
    async with hooks.relay((0.02,)):
        await ended(broker)
        await settled(hooks, made, "abandoned")
        await ended(broker)
        await settled(hooks, made, "delivered")

        async def counted() -> bool:
            return attempts("delivered") == before["delivered"] + 1

        await wait_for(counted)
    assert attempts("http_5xx") == before["http_5xx"] + 2
    assert sample("mcpbroker_webhooks_abandoned_total") == given_up + 1


async def test_what_waits_and_fails_is_read_for_the_gauges(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(500))
    await hooks.add(receiver.url)
    async with hooks.relay():
        await ended(broker)

        async def failing() -> bool:
            query = "SELECT 1 FROM webhook_endpoints WHERE failing_since IS NOT NULL"
            return bool(await fetch(hooks.dsns.owner, query))

        await wait_for(failing)
    conn = await asyncpg.connect(hooks.dsns.relay)
    try:
        await gauges.read(conn)
    finally:
        await conn.close()
    assert sample("mcpbroker_webhooks_waiting") == 1
    assert sample("mcpbroker_webhooks_failing") == 1
    assert sample("mcpbroker_webhooks_oldest_seconds") > 0


async def test_a_delivery_is_a_span_of_its_calls_trace(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(500), OK)
    made = await hooks.add(receiver.url)
    with opening() as opened:
        sent = opened()
        async with hooks.relay((0.02,), sent.tracing):
            one = (await accept(broker, echo(traceparent=TRACEPARENT))).written.id
            await finish(broker, one, result={})
            await settled(hooks, made, "delivered")
        spans = [span for span in sent.spans() if span.name == "webhook command.ended"]
    assert [span.trace_id.hex() for span in spans] == [TRACE] * 2
    assert len({span.span_id for span in spans}) == 2
    said = [{one.key: one.value for one in span.attributes} for span in spans]
    assert said[0]["error.type"].string_value == "http_5xx"
    assert said[1]["http.response.status_code"].int_value == 204
    assert not [name for one in said for name in one if "url" in name or "address" in name]
