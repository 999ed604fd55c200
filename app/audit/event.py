"""An audit event: its content, and the leaf of the log that is computed from it.

The database computes the same leaf (migrations 0005 and 0008), so that neither side is taken at
its word. The tree over the leaves is in `tree.py`, its sealed heads in `seal.py`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from app.identity import ERASED

LEAF_TAG: Final = "mcpbroker.audit.v1"
LEAF_TAG_2: Final = "mcpbroker.audit.v2"
PERSONAL_TAG: Final = "mcpbroker.audit.personal.v1"

ERASURE: Final = "person.erased"
"""The type of the event that records an erasure."""

MACHINES: Final = ("adapter:", "relay:", "db:")
"""Actors whose whole name stays; `db:` is who works on the database itself."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An audit event's content: exactly what its leaf is computed from."""

    event_id: UUID
    occurred_at: datetime
    tenant_id: str
    type: str
    actor: str
    user_id: str | None
    command_id: UUID | None
    saga_id: UUID | None
    tool: str | None
    method: str | None
    attempt: int | None
    state_from: str | None
    state_to: str | None
    fingerprint: bytes | None
    body: str  # the JSON text as it was written, byte for byte
    salt: bytes | None = None  # hides what the leaf holds of a person; none in version 1
    commitment: bytes | None = None  # all that is left of it after an erasure
    erased_by: UUID | None = None  # the event that records the erasure


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // timedelta(microseconds=1)


def canonical(tag: str, fields: Iterable[str | None]) -> bytes:
    """Fields as netstrings behind a tag, "-" for NULL: no two lists of fields give the same."""
    parts = [tag.encode()]
    for field in fields:
        if field is None:
            parts.append(b"-")
        else:
            encoded = field.encode()
            parts.append(b"%d:%b" % (len(encoded), encoded))
    return b",".join(parts) + b","


def leaf_of(event: Event) -> bytes:
    """The event's leaf, as the database computes it (`audit.leaf_v2`)."""
    if event.salt is None and event.commitment is None:
        return _leaf_v1(event)
    fields = (
        str(event.event_id),
        str(micros(event.occurred_at)),
        event.tenant_id,
        event.type,
        actor_kind(event.actor),
        None if event.command_id is None else str(event.command_id),
        None if event.saga_id is None else str(event.saga_id),
        event.tool,
        event.method,
        None if event.attempt is None else str(event.attempt),
        event.state_from,
        event.state_to,
        commitment_of(event).hex(),
    )
    return hashlib.sha256(b"\x00" + canonical(LEAF_TAG_2, fields)).digest()


def actor_kind(actor: str) -> str:
    """What of an actor is no person's: a machine's whole name, a person's only up to the colon."""
    if actor.startswith(MACHINES) or ":" not in actor:
        return actor
    return actor.partition(":")[0] + ":"


def commitment_of(event: Event) -> bytes:
    """What the leaf holds of an event's personal fields; it reveals nothing without the salt.

    Of an erased event it is what the erasure left, or nothing where the event is not empty.
    """
    if event.commitment is None:
        fields = (
            None if event.salt is None else event.salt.hex(),
            event.actor,
            event.user_id,
            None if event.fingerprint is None else event.fingerprint.hex(),
            event.body,
        )
        return hashlib.sha256(canonical(PERSONAL_TAG, fields)).digest()
    kind = actor_kind(event.actor)
    empty = (
        event.salt is event.user_id is event.fingerprint is None
        and event.body == "{}"
        and event.actor == (kind + ERASED if kind.endswith(":") else kind)
    )
    return event.commitment if empty else b""


def _leaf_v1(event: Event) -> bytes:
    """The leaf of an event from before there were salts: everything as it is."""
    fields = (
        str(event.event_id),
        str(micros(event.occurred_at)),
        event.tenant_id,
        event.type,
        event.actor,
        event.user_id,
        None if event.command_id is None else str(event.command_id),
        None if event.saga_id is None else str(event.saga_id),
        event.tool,
        event.method,
        None if event.attempt is None else str(event.attempt),
        event.state_from,
        event.state_to,
        None if event.fingerprint is None else event.fingerprint.hex(),
        event.body,
    )
    return hashlib.sha256(b"\x00" + canonical(LEAF_TAG, fields)).digest()
