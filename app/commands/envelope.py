"""The v1.0 envelope: the command as adapters get it from Kafka."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from app.contract import VERSION, Priority, instant


def partition_key(tenant_id: str, ordering_key: str | None, correlation_id: UUID) -> str:
    """The Kafka key: commands of one ordering key share a partition, others spread."""
    return f"{tenant_id}:{ordering_key if ordering_key is not None else correlation_id}"


def envelope(row: Mapping[str, Any], *, by_reference: bool) -> dict[str, Any]:
    """The command as Kafka carries it: the seed's fields, and which attempt this is.

    `row` is a row of `commands`. Without args where policy says by_reference, and without the
    call that would undo it: the broker makes that itself. The fence is the attempt's number:
    public, not a secret; the claim checks it.
    """
    starts_at = max(row["created_at"], row["not_before"] or row["created_at"])
    return {
        "envelope_version": VERSION,
        "correlation_id": str(row["id"]),
        "idempotency_key": row["idempotency_key"],
        "tenant_id": row["tenant_id"],
        "user_id": row["user_id"],
        "tool": row["tool"],
        "method": row["method"],
        "args": {} if by_reference else row["args"],
        "ordering_key": row["ordering_key"],
        "deadline_ms": round((row["deadline_at"] - starts_at).total_seconds() * 1000),
        "priority": Priority(row["priority"]).wire,
        "labels": row["labels"] or [],
        "accept_partials": row["accept_partials"],
        "accept_async": row["accept_async"],
        "saga_id": None if row["saga_id"] is None else str(row["saga_id"]),
        "saga_step": row["saga_step"],
        "compensation": None if by_reference else row["compensation"],
        "attempt": row["attempt"],
        "fence": row["attempt"],
        "deadline_at": instant(row["deadline_at"]),
        "created_at": instant(row["created_at"]),
    }


def headers(
    *,
    event_id: UUID,
    tenant_id: str,
    command_id: UUID | None,
    ordering_key: str | None,
    attempt: int | None,
    trace: str | None,
    target: str | None = None,
) -> list[tuple[str, bytes]]:
    """Kafka headers; EDA turns `message_uuid` into event.meta.uuid.

    By `target` an executor keeps within the bounds of a tool's target before it claims.
    """
    named = {
        "message_uuid": str(event_id),
        "content-type": "application/json",
        "tenant_id": tenant_id,
        "correlation_id": None if command_id is None else str(command_id),
        "ordering_key": ordering_key,
        "attempt": None if attempt is None else str(attempt),
        "traceparent": trace,
        "target": target,
    }
    return [(name, value.encode()) for name, value in named.items() if value is not None]
