"""The events extension (SEP-3415): what became of a user's calls and sagas, by poll and by push.

By the SEP's text of October 2026; its webhooks are in `event_webhooks`. A subscription is the
client's: any replica answers any cursor, which says how far it was told, and when.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import anyio
from mcp import types
from mcp.server import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from app.catalog.policy import wire_name
from app.contract import instant
from app.edges.auth.scopes import CALL, need
from app.edges.mcp.calls import VERSION_HEADER, Context, granted, identity_of, one_page
from app.edges.parts import Parts
from app.edges.streams import TooManyStreamsError
from app.errors import BrokerError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas.store import occurrences
from app.sagas.store.occurrences import Kind, Occurrence, Position, Read
from app.webhooks import payload
from app.webhooks.store import controls

EXTENSION: Final = "io.modelcontextprotocol/events"
SINCE: Final = "2026-07-28"
"""The first version that has extensions, as text: later ones are greater."""

NOT_FOUND: Final = -32023
RESOURCE_EXHAUSTED: Final = -32025
REPLAY_MAX: Final = timedelta(days=1)
EVENTS_MAX: Final = 500
EVENTS: Final = 100
POLL_MS: Final = 5000
LIFE_S: Final = 900.0
"""A stream ends after this; its client comes back, with a token that counts by then."""

CURSOR: Final = re.compile(r"([0-9]{1,19})\.([0-9]{1,17})\.([0-9a-f]{32})\.([0-9]{1,12})")
TOOL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "tool": {"type": "string", "description": "Only of this tool, by its name of tools/list."}
    },
    "additionalProperties": False,
}
NOTHING: Final[dict[str, Any]] = {"type": "object", "additionalProperties": False}
COMMAND: Final[dict[str, Any]] = {
    "command_id": {"type": "string", "description": "For command_status, which has the result."},
    "tool": {"type": "string"},
    "saga_id": {"type": "string"},
}
DESCRIPTIONS: Final = {
    Kind.COMMAND_ENDED: "A call of yours has ended.",
    Kind.APPROVAL_WAITING: "A call of yours waits for an approval.",
    Kind.SAGA_ENDED: "A saga of yours is completed, or undone.",
    Kind.SAGA_WAITING: "A saga of yours waits for an operator's decision.",
}
PAYLOADS: Final[dict[Kind, dict[str, Any]]] = {
    Kind.COMMAND_ENDED: COMMAND
    | {"state": {"type": "string"}, "outcome_unknown": {"type": "boolean"}},
    Kind.APPROVAL_WAITING: COMMAND,
    Kind.SAGA_ENDED: {"saga_id": {"type": "string"}, "state": {"type": "string"}},
    Kind.SAGA_WAITING: {"saga_id": {"type": "string"}, "state": {"type": "string"}},
}


class Subscribed(types.RequestParams):
    """What a subscription is for, and from where on."""

    name: str
    arguments: dict[str, Any] | None = None
    cursor: str | None = None
    max_age_ms: int | None = None
    max_events: int | None = None


@dataclass(slots=True, kw_only=True)
class Subscription:
    """One reader of one kind of event."""

    who: Identity
    kind: Kind
    tool: tuple[str, str] | None
    position: Position
    since: datetime
    truncated: bool
    checked: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def cursor(self) -> str:
        """How far it was told: opaque to the client."""
        return cursor_of(self.position, self.checked)


class Events:
    """events/list, events/poll and events/stream."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker
        webhooks = ["webhook"] if broker.settings.webhook_keys else []
        self._modes = ["poll", "push", *webhooks]

    def install(self, server: Server[Any]) -> None:
        """Advertise the extension and serve its methods."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("events/list", types.PaginatedRequestParams, self._list)
        server.add_request_handler("events/poll", Subscribed, self._poll)
        server.add_request_handler("events/stream", Subscribed, self._stream)

    async def _list(self, ctx: Context, params: types.PaginatedRequestParams) -> dict[str, Any]:
        caller(ctx)
        one_page(params)
        found = [
            {
                "name": kind,
                "description": DESCRIPTIONS[kind],
                "delivery": self._modes,
                "inputSchema": input_schema(kind),
                "payloadSchema": {"type": "object", "properties": PAYLOADS[kind]},
            }
            for kind in Kind
        ]
        return {"resultType": "complete", "events": found}

    async def _poll(self, ctx: Context, params: Subscribed) -> dict[str, Any]:
        one = await self._subscribed(ctx, params)
        wanted = EVENTS if params.max_events is None else params.max_events
        read = await self._next(one, max(1, min(wanted, EVENTS_MAX)))
        return {
            "resultType": "complete",
            "events": [occurrence(one.kind, each) for each in read.found],
            "cursor": one.cursor,
            "truncated": one.truncated or read.strange,
            "hasMore": read.more,
            "nextPollMs": POLL_MS,
        }

    async def _stream(self, ctx: Context, params: Subscribed) -> dict[str, Any]:
        one = await self._subscribed(ctx, params)
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        try:
            with self._broker.streams.room(one.who):
                async for kind, body in self.told(one):
                    await tell(ctx, f"notifications/events/{kind}", body | {"_meta": meta})
        except TooManyStreamsError as error:
            most = self._broker.settings.listen_streams_per_user_max
            limit = {"limit": "streams", "max": most}
            raise MCPError(RESOURCE_EXHAUSTED, "Too many streams are open.", limit) from error
        return {"resultType": "complete", "_meta": meta}

    async def told(self, one: Subscription) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """What a stream says, by kind: events, beats, a gap (`active` again), and its end.

        It is `terminated` where its user may no longer have it; else it just ends, after a time.
        """
        settings = self._broker.settings
        yield "active", {"cursor": one.cursor, "truncated": one.truncated}
        quiet_from = anyio.current_time()
        until = quiet_from + LIFE_S
        while anyio.current_time() < until:
            if not await allowed(self._broker, one.who, one.tool):
                yield "terminated", {"error": controls.REVOKED}
                return
            read = await self._next(one, EVENTS)
            if read.strange:
                yield "active", {"cursor": one.cursor, "truncated": True}
            for each in read.found:
                body = occurrence(one.kind, each)
                yield "event", body | {"cursor": cursor_of(each.position, each.position.at)}
            if read.found or read.strange:
                quiet_from = anyio.current_time()
            elif anyio.current_time() - quiet_from >= settings.heartbeat_s:
                yield "heartbeat", {"cursor": one.cursor}
                quiet_from = anyio.current_time()
            if not read.more:
                await anyio.sleep(min(settings.poll_s, settings.heartbeat_s))

    async def _subscribed(self, ctx: Context, params: Subscribed) -> Subscription:
        """Where a subscription stands; one without a cursor begins now.

        Raises:
            MCPError: there is no such event, or what narrows it is not good.
        """
        who = caller(ctx)
        if params.name not in set(Kind):
            raise MCPError(NOT_FOUND, "There is no such event.", {"kind": "event"})
        kind = Kind(params.name)
        tool = await tool_of(self._broker, who, kind, params.arguments or {})
        now = datetime.now(UTC)
        given = None if params.cursor is None else position_of(params.cursor)
        async with tenant_transaction(self._broker.database.engine, who.tenant_id) as conn:
            end, unused = await occurrences.edge(conn)
        age = REPLAY_MAX
        if params.max_age_ms is not None:
            age = min(age, timedelta(milliseconds=max(0, min(params.max_age_ms, 10**9))))
        position, checked = (end, now) if given is None else given
        # A transaction that nobody has had yet: the cursor is of another database.
        strange = position.xid > unused
        made = Subscription(
            who=who,
            kind=kind,
            tool=tool,
            position=end if strange else position,
            since=now - age,
            truncated=strange or checked < now - age,
        )
        if not await allowed(self._broker, who, tool):
            raise revoked()
        return made

    async def _next(self, one: Subscription, limit: int) -> Read:
        """What follows, which moves the subscription on."""
        started = datetime.now(UTC)
        async with tenant_transaction(self._broker.database.engine, one.who.tenant_id) as conn:
            read = await occurrences.following(
                conn,
                tenant_id=one.who.tenant_id,
                user_id=one.who.user_id,
                kind=one.kind,
                tool=one.tool,
                position=one.position,
                since=one.since,
                limit=limit,
            )
        one.position = read.position
        one.checked = read.found[-1].position.at if read.more and read.found else started
        return read


def caller(ctx: Context) -> Identity:
    """Who asks, of a version that has events.

    Raises:
        MCPError: it is an older one.
        ForbiddenError: the token lacks the scope.
    """
    assert ctx.request is not None, "served over HTTP only"
    if ctx.request.headers.get(VERSION_HEADER, "") < SINCE:
        raise MCPError(types.METHOD_NOT_FOUND, f"Events are of version {SINCE} and later.")
    who = identity_of(ctx)
    need(who, CALL)
    return who


async def tool_of(
    broker: Parts, who: Identity, kind: Kind, arguments: dict[str, Any]
) -> tuple[str, str] | None:
    """The tool that narrows a subscription; None where none does.

    Raises:
        MCPError: what narrows it is not good.
    """
    if set(arguments) - set(input_schema(kind).get("properties", {})):
        raise MCPError(types.INVALID_PARAMS, f"{kind} takes other arguments; see events/list.")
    name = arguments.get("tool")
    if name is None:
        return None
    if not isinstance(name, str):
        raise MCPError(types.INVALID_PARAMS, "tool is a name of tools/list.")
    try:
        tool = await granted(broker, who, name)
    except BrokerError as error:
        raise MCPError(types.INVALID_PARAMS, "tool is no name of tools/list.") from error
    return tool.tool, tool.method


async def allowed(broker: Parts, who: Identity, tool: tuple[str, str] | None) -> bool:
    """Whether a user's tenant is served, and the tool that narrows a subscription is theirs."""
    if await broker.catalog.tenant(who.tenant_id) is None:
        return False
    found = None if tool is None else await broker.catalog.tool(*tool)
    return tool is None or (found is not None and await broker.catalog.may_call(who, found))


def revoked() -> MCPError:
    """What somebody is told who may not have a subscription, or not any longer."""
    error = controls.REVOKED
    return MCPError(error["code"], error["message"], error["data"])


def input_schema(kind: Kind) -> dict[str, Any]:
    """What narrows a subscription."""
    return TOOL if kind in {Kind.COMMAND_ENDED, Kind.APPROVAL_WAITING} else NOTHING


def occurrence(kind: Kind, one: Occurrence) -> dict[str, Any]:
    """An event as it is delivered; a result is asked for by command_status."""
    data: dict[str, Any] = {"saga_id": None if one.saga_id is None else str(one.saga_id)}
    if kind in {Kind.SAGA_ENDED, Kind.SAGA_WAITING}:
        data["state"] = one.type.removeprefix("saga.")
    else:
        assert one.tool is not None
        assert one.method is not None
        data |= {"command_id": str(one.command_id), "tool": wire_name(one.tool, one.method)}
    if kind is Kind.COMMAND_ENDED:
        data |= {"state": one.state, "outcome_unknown": one.outcome_unknown}
    return {
        "eventId": str(one.position.event_id),
        "name": kind,
        "timestamp": instant(one.position.at),
        "data": {name: value for name, value in data.items() if value is not None},
    }


def cursor_of(position: Position, checked: datetime) -> str:
    """A position as text, with when it was the newest."""
    return payload.cursor_text(position.xid, position.at, position.event_id, checked)


def position_of(cursor: str) -> tuple[Position, datetime]:
    """A position of its text.

    Raises:
        MCPError: it is none of ours.
    """
    found = CURSOR.fullmatch(cursor)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, "The cursor is none that was given here.")
    xid, micros, event_id, checked = found.groups()
    try:
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros))
        when = datetime.fromtimestamp(int(checked), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise MCPError(types.INVALID_PARAMS, "The cursor is none that was given here.") from error
    return Position(xid=int(xid), at=at, event_id=UUID(event_id)), when


async def tell(ctx: Context, method: str, params: dict[str, Any]) -> None:
    """A notification on this request's own stream."""
    notification = types.Notification[dict[str, Any], str](method=method, params=params)
    await ctx.session.send_notification(notification, related_request_id=ctx.request_id)  # pyright: ignore[reportArgumentType]
