"""What every route of the HTTP API reads and answers alike."""

from typing import Annotated, Any

import orjson
from fastapi import Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.contract import Key
from app.edges.bodies import number
from app.identity import Identity


class CallHeaders(BaseModel):
    """What headers say of a call, as they came: of a tool's, or a saga's run."""

    model_config = ConfigDict(frozen=True)

    idempotency_key: Key | None = None
    prefer: str | None = None
    """RFC 7240's, for `wait_s`."""
    traceparent: str | None = None
    """W3C Trace Context's, for `app.contract.traceparent`."""
    mcp_broker_labels: str | None = None
    """For `app.asserted.labels_of`."""


CallHead = Annotated[CallHeaders, Header()]


class CancelBody(BaseModel):
    """Why a command is cancelled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(default="cancelled by the caller", min_length=1, max_length=500)


class ReasonBody(BaseModel):
    """Why; it goes into the audit trail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=1, max_length=500)


def identity_of(request: Request) -> Identity:
    """Who asks: the middleware has verified the token."""
    return request.scope["broker.identity"]


def reply(status: int, body: Any, **headers: str) -> Response:
    """JSON, by orjson."""
    return Response(
        orjson.dumps(body, default=str),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )


def wait_s(prefer: str | None) -> float | None:
    """The wait that a `Prefer` header asks for (RFC 7240): `respond-async` or `wait=N` seconds."""
    for part in (prefer or "").lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "respond-async":
            return 0
        if name == "wait" and (seconds := number(value)) is not None:
            return float(seconds)
    return None


def event(name: str, number: int, data: Any) -> bytes:
    """One server-sent event."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (name.encode(), number, orjson.dumps(data))
