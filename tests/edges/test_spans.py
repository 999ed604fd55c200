"""What an app tells of a request: in which trace, and nothing of what was asked or answered."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from app.edges.guard import Guard
from app.edges.http.results import BODIES
from app.edges.parts import Parts
from app.edges.server import build
from app.edges.spans import WORDS, HttpSpans
from app.traces.context import Context
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.mcp.wire import send
from tests.support.calls import accept, echo, fetch
from tests.support.served import Served
from tests.support.traced import Sent, opening

CALL = {"tool": "probe", "method": "echo", "args": {"text": "not to be seen"}}
ASYNC = {"Prefer": "respond-async"}
CLIENTS = [f"00-{trace * 32}-00f067aa0ba902b7-01" for trace in "ab"]


@asynccontextmanager
async def serving(
    broker: Parts, issuer: DevIssuer, **more: Any
) -> AsyncGenerator[tuple[httpx2.AsyncClient, Sent]]:
    """A caller of an app that traces, and what it has sent."""
    async with AsyncExitStack() as stack:
        sent = stack.enter_context(opening())(**more)
        outside = build(broker.settings, replace(broker, tracing=sent.tracing))
        assert isinstance(outside, HttpSpans)
        assert isinstance(outside.app, Guard)
        api = Served(guard=outside.app, issuer=issuer).api
        await stack.enter_async_context(api.router.lifespan_context(api))
        token = issuer.token(tenant="demo", user="ada", scopes=("tools",))
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=outside),
            base_url="http://testserver",
            headers={"Authorization": f"Bearer {token}"},
        )
        yield await stack.enter_async_context(client), sent


async def test_a_call_is_a_child_of_the_span_that_served_it(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with serving(broker, issuer) as (client, sent):
        await client.post("/mcp/tools/call", json=CALL, headers=ASYNC | {"traceparent": CLIENTS[0]})
        [span] = sent.spans()
    [row] = await fetch(database.owner, "SELECT traceparent FROM commands")
    kept = Context.read(row["traceparent"])
    assert kept is not None
    assert (kept.trace_id, kept.span_id) == (span.trace_id, span.span_id)
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (
        "POST /mcp/tools/call",
        "a" * 32,
        "00f067aa0ba902b7",
    )


@pytest.mark.guarantee("traces:asked")
async def test_an_adapters_word_is_below_the_span_that_it_came_with_and_others_are_not_told(
    broker: Parts, issuer: DevIssuer
) -> None:
    one, body = (await accept(broker, echo())).written.id, {"attempt": 1, "adapter": "run-1"}
    token = issuer.token(tenant="adapters", user="eda", scopes=("results:write",))
    adapter = {"Authorization": f"Bearer {token}"}
    async with serving(broker, issuer, links_clients=True) as (client, sent):
        for more in ({"traceparent": CLIENTS[0]}, {}):
            answer = await client.post(f"/results/{one}/claim", json=body, headers=adapter | more)
            assert answer.status_code == 200, answer.text
        [span] = sent.spans()
    assert span.name == "POST /results/{correlation_id}/claim"
    assert set(BODIES) == WORDS, "each word has its route"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "00f067aa0ba902b7")


@pytest.mark.guarantee("traces:one")
async def test_a_repeat_of_a_call_is_linked_to_the_first(broker: Parts, issuer: DevIssuer) -> None:
    async with serving(broker, issuer) as (client, sent):
        headers = [ASYNC | {"Idempotency-Key": "k", "traceparent": one} for one in CLIENTS]
        answers = [
            (await client.post("/mcp/tools/call", json=CALL, headers=one)).json() for one in headers
        ]
        first, again = sent.spans()
    assert not first.links
    [link] = again.links
    told = Context(first.trace_id, first.span_id).command(answers[1]["command_id"])
    assert (link.trace_id, link.span_id) == (told.trace_id, told.span_id)


@pytest.mark.guarantee("traces:discreet")
async def test_neither_arguments_nor_texts_of_errors_nor_names_that_are_no_tools_are_told(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with serving(broker, issuer) as (client, sent):
        await client.post("/mcp/tools/call?secret=1", json=CALL, headers=ASYNC)
        await client.post("/mcp/tools/call", json=CALL | {"args": {"secret": 1}}, headers=ASYNC)
        await client.get("/commands/00000000-0000-7000-8000-00000000dead")
        await client.get("/secret")
        for name, arguments in (("secret", {}), ("probe_echo", {"secret": 1})):
            params = {"name": name, "arguments": arguments}
            await send(client, "tools/call", params, name=name)
        spans = sent.spans()
    assert sorted(span.name for span in spans) == [
        "GET /commands/{command_id}",
        "GET unknown",
        *["POST /mcp"] * 2,
        *["POST /mcp/tools/call"] * 2,
        "tools/call",
        "tools/call probe_echo",
    ]
    for word in ("secret", "not to be seen", "dead", "demo", "ada"):
        assert word not in str(spans)


async def test_a_message_is_below_what_its_meta_names_and_linked_to_its_request(
    broker: Parts, issuer: DevIssuer
) -> None:
    params = {"name": "command_list", "arguments": {}}
    async with serving(broker, issuer) as (client, sent):
        await send(
            client,
            "tools/call",
            params,
            name="command_list",
            meta={"traceparent": CLIENTS[1], "baggage": "secret=1"},
            headers={"traceparent": CLIENTS[0]},
        )
        message, request = sent.spans()
    assert (message.name, request.name) == ("tools/call command_list", "POST /mcp")
    assert (message.trace_id.hex(), message.parent_span_id.hex()) == (
        "b" * 32,
        "00f067aa0ba902b7",
    )
    assert [link.span_id for link in message.links] == [request.span_id]


async def test_where_clients_are_strangers_their_trace_is_a_link(
    broker: Parts, issuer: DevIssuer
) -> None:
    params = {"name": "command_list", "arguments": {}}
    async with serving(broker, issuer, links_clients=True) as (client, sent):
        meta, headers = {"traceparent": CLIENTS[1]}, {"traceparent": CLIENTS[0]}
        await send(client, "tools/call", params, name="command_list", meta=meta, headers=headers)
        message, request = sent.spans()
    assert message.trace_id == request.trace_id
    assert message.parent_span_id == request.span_id
    assert not request.parent_span_id
    assert [link.trace_id.hex() for link in (*request.links, *message.links)] == [
        "a" * 32,
        "b" * 32,
    ]
