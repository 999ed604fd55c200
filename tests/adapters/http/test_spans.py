"""What a worker tells of an adapter's request, and what goes along with it."""

from adapters.contract import Failure, Result
from adapters.kinds import Adapters
from app.traces.context import Context
from tests.adapters.executor import Heard, call_of
from tests.adapters.http.conftest import Server
from tests.support.traced import opening
from worker.spans import asking

ATTEMPT = Context(b"t" * 16, b"p" * 8)


async def test_a_request_carries_the_span_that_is_told_of_it(
    server: Server, adapters: Adapters
) -> None:
    mapping = {"method": "GET", "path": "/things/{name}"}
    with opening() as opened:
        sent = opened(shown={"tenant_id"})
        assert sent.tracing is not None
        call = call_of(
            server.target(),
            args={"name": "secret"},
            mapping=mapping,
            traceparent=ATTEMPT.traceparent,
        )
        with asking(sent.tracing, call) as span:
            span.outcome = await adapters.run(span.call, Heard())
        assert isinstance(span.outcome, Result)
        [told] = sent.spans()
    assert told.name == "GET /things/{name}"
    assert (told.trace_id, told.parent_span_id) == (ATTEMPT.trace_id, ATTEMPT.span_id)
    went = Context.read(server.seen[0]["headers"]["traceparent"])
    assert went == Context(told.trace_id, told.span_id)
    said = {one.key: one.value.string_value or one.value.int_value for one in told.attributes}
    assert said["server.port"] == int(server.address.rpartition(":")[2])
    assert (said["url.template"], said["mcp_broker.tenant_id"]) == ("/things/{name}", call.tenant)
    assert "secret" not in str(told)


async def test_a_failure_is_told_by_its_code(server: Server, adapters: Adapters) -> None:
    await adapters.close()
    mapping = {"method": "GET", "path": "/{absent}"}
    with opening() as opened:
        sent = opened()
        assert sent.tracing is not None
        call = call_of(server.target(), mapping=mapping, traceparent=ATTEMPT.traceparent)
        with asking(sent.tracing, call) as span:
            span.outcome = await adapters.run(span.call, Heard())
        assert isinstance(span.outcome, Failure)
        [told] = sent.spans()
    said = {one.key: one.value.string_value for one in told.attributes}
    assert (told.status.code, said["error.type"]) == (2, span.outcome.code)
    assert span.outcome.message not in str(told)


async def test_a_call_of_no_trace_is_not_told(server: Server) -> None:
    with opening() as opened:
        sent = opened()
        assert sent.tracing is not None
        call = call_of(server.target(), mapping={}, traceparent=None)
        with asking(sent.tracing, call) as span:
            assert span.call is call
        assert sent.spans() == []
