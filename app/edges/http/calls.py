"""Plain HTTP for callers: `POST /mcp/tools/call`, and commands to read, follow and cancel."""

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.asserted import LABELS_MAX, labels_of
from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.store.progress import Progress
from app.commands.view import outcome, view
from app.commands.watch import progress_events, until_final
from app.contract import CallBody, instant, traceparent
from app.edges.auth.scopes import CALL, need
from app.edges.bodies import number
from app.edges.calls import Accepted, held_fields, submit
from app.edges.commands import cancel, find, listing
from app.edges.http.replies import (
    CallHead,
    CallHeaders,
    CancelBody,
    event,
    identity_of,
    reply,
    wait_s,
)
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import BadRequestError, ForbiddenError
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.traces.context import traceparent_here

NOTE: Final = "continuing async"
CALL_PATH: Final = "/mcp/tools/call"
SEQ_MAX: Final = 2**31 - 1


def router(broker: Parts) -> APIRouter:
    """The routes of callers."""
    made = APIRouter(route_class=StrictRoute)

    _add_call(made, broker)

    @made.get("/commands")
    async def commands(
        request: Request,
        state: Annotated[list[State] | None, Query()] = None,
        tool: str | None = None,
        label: Annotated[list[str] | None, Query(max_length=LABELS_MAX)] = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        everyone: bool = False,
    ) -> Response:
        """The caller's commands, newest first."""
        who = identity_of(request)
        need(who, CALL)
        found = await listing(
            broker,
            who,
            states=state,
            tool=tool,
            labels=label,
            before=before,
            limit=limit,
            everyone=everyone,
        )
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"commands": [view(one) for one in found], "before": more})

    @made.get("/commands/{command_id}")
    async def command(request: Request, command_id: UUID) -> Response:
        """One command."""
        return reply(200, view(await find(broker, identity_of(request), command_id)))

    @made.get("/commands/{command_id}/events")
    async def events(
        request: Request,
        command_id: UUID,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Progress and the result as server-sent events; resumes after Last-Event-ID."""
        who = identity_of(request)
        found = await find(broker, who, command_id)
        after = 0 if last_event_id is None else number(last_event_id)
        if after is None or after > SEQ_MAX:
            raise BadRequestError("Last-Event-ID is the number of an event of this stream.")
        stream = sse(broker, found, after=after)
        return Streamed(stream, broker.streams.room(who))

    @made.post("/commands/{command_id}/cancel")
    async def cancel_(request: Request, command_id: UUID, body: CancelBody) -> Response:
        """Cancel a command: 200 where it has ended by this, 202 where its adapter was asked."""
        who = identity_of(request)
        need(who, CALL)
        change = await cancel(broker, who, command_id, reason=body.reason)
        return reply(200 if change.command.final else 202, view(change.command))

    return made


def _add_call(made: APIRouter, broker: Parts) -> None:
    @made.post(CALL_PATH)
    async def call(
        request: Request,
        body: CallBody,
        headers: CallHead,
    ) -> Response:
        """Call a tool: its result, or "accepted" where it takes longer than the wait."""
        return await called(broker, identity_of(request), body, headers)


class Streamed(StreamingResponse):
    """An event stream that has a place among those that there may be."""

    def __init__(self, content: AsyncGenerator[bytes], room: AbstractContextManager[None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, where there is room.

        Raises:
            TooManyStreamsError: there is none; nothing was sent.
        """
        with self._room:
            await super().__call__(scope, receive, send)


async def called(broker: Parts, who: Identity, body: CallBody, headers: CallHeaders) -> Response:
    """Accept a call of the contract's shape, and wait as long as its caller wants to.

    Raises:
        BrokerError: nothing was written.
    """
    need(who, CALL)
    asked = parse(who, body, headers)
    accepted = await submit(broker, who, asked, wait_s=wait_s(headers.prefer))
    return await awaited(broker, who, accepted)


async def awaited(broker: Parts, who: Identity, accepted: Accepted) -> Response:
    """The answer to an accepted call, after as long a wait as it may have."""
    if accepted.wait_s <= 0:
        return answer(accepted, None)
    written = accepted.written
    with broker.feed.watch(
        who.tenant_id, written.id, end_only=True, just_written=written.new
    ) as watch:
        ended = await until_final(watch, wait_s=accepted.wait_s)
    return answer(accepted, ended)


def parse(who: Identity, body: CallBody, headers: CallHeaders) -> CallRequest:
    """The envelope as a request; what it says of identity must be the token's.

    Raises:
        ForbiddenError: tenant_id or user_id is another's.
        BadRequestError: body and header name different idempotency keys, or too many labels.
    """
    for name, mine in (("tenant_id", who.tenant_id), ("user_id", who.user_id)):
        value = getattr(body, name)
        if value is not None and value != mine:
            raise ForbiddenError(f"{name} is {value!r} in the body and another in the token.")
    header_key = headers.idempotency_key
    if header_key is not None and body.idempotency_key not in {None, header_key}:
        raise BadRequestError("Body and Idempotency-Key header name different keys.")
    return CallRequest(
        tool=body.tool,
        method=body.method,
        args=body.args,
        idempotency_key=header_key or body.idempotency_key,
        key_source="body" if header_key is None else "header",
        correlation_id=body.correlation_id,
        ordering_key=body.ordering_key,
        deadline_s=None if body.deadline_ms is None else body.deadline_ms / 1000,
        priority=body.priority,
        accept_async=body.accept_async,
        accept_partials=body.accept_partials,
        saga_id=body.saga_id,
        saga_step=body.saga_step,
        compensation=None if body.compensation is None else body.compensation.model_dump(),
        not_before=body.not_before,
        labels=labels_of(body.labels, headers.mcp_broker_labels),
        traceparent=traceparent_here(traceparent(headers.traceparent)),
    )


def answer(accepted: Accepted, ended: Command | None) -> Response:
    """200 with the outcome, or 202 with where to look for it."""
    headers: dict[str, str] = {}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if ended is not None:
        body = told(ended) | ({"deduplicated": True} if accepted.deduplicated else {})
        return reply(200, body, **headers)
    command_id = str(accepted.written.id)
    headers |= {"Location": f"/commands/{command_id}", "Retry-After": "2"}
    body = {
        "status": "accepted",
        "command_id": command_id,
        "correlation_id": command_id,
        "note": NOTE,
        "deadline_at": instant(accepted.written.deadline_at),
        "not_before": None if accepted.not_before is None else instant(accepted.not_before),
        "hold": None if accepted.hold is None else held_fields(accepted.hold),
        "status_url": f"/commands/{command_id}",
        "events_url": f"/commands/{command_id}/events",
    }
    body = {name: value for name, value in body.items() if value is not None}
    return reply(202, body | ({"deduplicated": True} if accepted.deduplicated else {}), **headers)


def told(ended: Command) -> dict[str, Any]:
    """An outcome over HTTP: the envelope's names, and the one that every answer has."""
    return {"command_id": str(ended.id), **outcome(ended)}


async def sse(broker: Parts, command: Command, *, after: int) -> AsyncGenerator[bytes]:
    """Events `progress` (id: its number) and, last, `result`; comments as heartbeats."""
    heartbeat_s = broker.settings.heartbeat_s
    changes = progress_events(
        broker.database.engine, broker.feed, command, after=after, heartbeat_s=heartbeat_s
    )
    try:
        async for change in changes:
            match change:
                case None:
                    yield b": still running\n\n"
                case Progress():
                    data = {
                        "stage": change.stage,
                        "percent": change.percent,
                        "message": change.message,
                        "attempt": change.attempt,
                        "at": instant(change.at),
                    }
                    yield event("progress", change.seq, data)
                case Command():
                    yield event("result", change.progress_seq + 1, told(change))
    finally:
        await changes.aclose()
