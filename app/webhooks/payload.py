"""What a webhook says: thin, so that what a call was asked and answered stays behind a token."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from app.catalog.policy import wire_name
from app.contract import instant
from app.webhooks.kind import CONTROLS, PING, Kind
from app.webhooks.template import fill

BYTES_MAX: Final = 256 << 10
"""Of a body: SEP-3415's bound. Ours are under 1 KiB, an operator's template under 32."""
SAGAS: Final = frozenset({Kind.SAGA_ENDED, Kind.SAGA_WAITING})
APPROVALS: Final = frozenset({Kind.APPROVAL_WAITING, Kind.APPROVAL_ESCALATED})
ENDS: Final = frozenset({Kind.COMMAND_ENDED, Kind.DEAD_LETTER})


def message_id(kind: str, delivery_id: UUID, event_id: UUID, *, subscription: bool) -> str:
    """The `webhook-id`, the same at each attempt; it has no full stop, as it is signed with some.

    Of an MCP client's event it is that of the event in every way of delivery (SEP-3415).
    """
    if not subscription:
        return f"msg_{delivery_id.hex}"
    return f"msg_{kind}_{delivery_id.hex}" if kind in CONTROLS else str(event_id)


def operator_body(
    kind: str,
    *,
    at: datetime,
    data: Mapping[str, Any],
    tenant_id: str,
    message: str,
    public_url: str,
    console: bool,
    template: Mapping[str, Any] | None,
) -> bytes:
    """A body for an operator's endpoint: type, timestamp, data; or its own template, filled."""
    base = public_url.rstrip("/")
    link = base if kind == PING else f"{base}{path_of(kind, data, console=console)}"
    if template is None:
        told = {"link": link} if kind == PING else {**data, "link": link}
        return orjson.dumps({"type": kind, "timestamp": instant(at), "data": told})
    values = {name: value for name, value in data.items() if isinstance(value, str)}
    values |= {"id": message, "type": kind, "timestamp": instant(at)}
    values |= {"tenant": tenant_id, "link": link}
    return orjson.dumps(fill(template, values))


def path_of(kind: str, data: Mapping[str, Any], *, console: bool) -> str:
    """Where more is to be read, by who may: a call, or the saga where there is no call.

    What waits for an approval leads to the page where that is decided: who does may see no other.
    """
    if console and kind in APPROVALS:
        return f"/console/approvals/{data['command_id']}"
    if "command_id" in data:
        return f"/{'console/calls' if console else 'commands'}/{data['command_id']}"
    return f"/{'console/sagas' if console else 'sagas'}/{data['saga_id']}"


def event_data(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What SEP-3415 calls an event's data, by its kind's payloadSchema."""
    told: dict[str, Any] = {"saga_id": data.get("saga_id")}
    if kind in SAGAS:
        told["state"] = data["state"]
    else:
        told |= {
            "command_id": data["command_id"],
            "tool": wire_name(data["tool"], data["method"]),
        }
    if kind in ENDS:
        told |= {"state": data["state"], "outcome_unknown": data.get("outcome_unknown", False)}
    return {name: value for name, value in told.items() if value is not None}


def event_body(
    kind: str, *, event_id: UUID, at: datetime, data: Mapping[str, Any], cursor: str
) -> bytes:
    """An EventOccurrence (SEP-3415), or what is no event: a challenge, a gap, an end."""
    if kind in CONTROLS:
        return orjson.dumps({"type": kind, **data})
    return orjson.dumps(
        {
            "eventId": str(event_id),
            "name": kind,
            "timestamp": instant(at),
            "data": event_data(kind, data),
            "cursor": cursor,
        }
    )


def cursor_text(xid: int, at: datetime, event_id: UUID, checked: datetime) -> str:
    """A position in the order of events as MCP's clients keep it, with when it was the newest."""
    micros = round((at - datetime.fromtimestamp(0, UTC)) / timedelta(microseconds=1))
    return f"{xid}.{micros}.{event_id.hex}.{int(checked.timestamp())}"


def watermark(
    *, xid: int, at: datetime, event_id: UUID, oldest_other: int | None, checked: datetime
) -> str:
    """The cursor in an event's body: all before it was taken or given up (SEP-3415)."""
    if oldest_other is None or oldest_other > xid:
        return cursor_text(xid, at, event_id, checked)
    return before(min(oldest_other, xid), checked)


def before(xid: int, checked: datetime) -> str:
    """The cursor that has all before a transaction, and nothing of it."""
    return cursor_text(xid, datetime.fromtimestamp(0, UTC), UUID(int=0), checked)


def subscription_id(endpoint_id: UUID) -> str:
    """The `X-MCP-Subscription-Id` of a subscription."""
    return f"sub_{endpoint_id.hex}"
