"""The span of what an adapter asks of its target, which goes along with what it asks."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import time_ns

from adapters.contract import AdapterCall, Failure, Outcome
from app.traces import names
from app.traces.context import HERE, Here
from app.traces.otlp import CLIENT, Span
from app.traces.tracing import Tracing


@dataclass(slots=True)
class Asking:
    """A call that is being worked on, as its adapter gets it; and what came of it, once known."""

    call: AdapterCall
    outcome: Outcome | None = None


@contextmanager
def asking(tracing: Tracing, call: AdapterCall) -> Generator[Asking]:
    """Let an adapter work inside the block, within a span below that of its attempt."""
    place = tracing.serve(call.traceparent, ours=True)
    if place.parent is None:  # of no trace: it was accepted where none is recorded
        yield Asking(call)
        return
    began = time_ns()
    asked = Asking(replace(call, traceparent=place.at.traceparent))
    token = HERE.set(Here(place.at))
    try:
        yield asked
    finally:
        HERE.reset(token)
        name, attributes = names.adapter(call.target.kind, call.target.address, call.mapping)
        failed = asked.outcome is None or isinstance(asked.outcome, Failure)
        if isinstance(asked.outcome, Failure):
            code = names.code({"code": asked.outcome.code}) or "failed"
            attributes = (*attributes, ("error.type", code))
        elif asked.outcome is None:
            attributes = (*attributes, ("error.type", "cancelled"))
        tracing.record(
            Span(
                at=place.at,
                parent=place.parent,
                name=name,
                kind=CLIENT,
                start_ns=began,
                end_ns=time_ns(),
                attributes=(*attributes, ("mcp_broker.target", call.target.name)),
                own=tracing.who(correlation_id=call.command_id, tenant_id=call.tenant),
                failed=failed,
            )
        )
