"""What is decided about a call that waits for an approval, each with its event in one statement."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import COLUMNS, LIST_MAX, Command
from app.commands.store.moves import AUDIT, NOTE, audited, moved

PENDING: Final = "c.id = :id AND c.approval = 'pending' AND c.state = 'queued'"
DENY: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET approval = 'denied', approval_due = NULL
         WHERE {PENDING}
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

# One person counts once, and nobody after the time to decide.
APPROVE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET approval = :decision,
               approval_due = CASE WHEN :decision = 'pending' THEN c.approval_due END,
               approvals = coalesce(c.approvals, '[]')
                           || jsonb_build_object('user', CAST(:user AS text), 'at', now())
         WHERE {PENDING} AND coalesce(jsonb_array_length(c.approvals), 0) = :counted
           AND (c.approval_until IS NULL OR c.approval_until > clock_timestamp())
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

ESCALATE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET escalated_at = now(), approval_due = c.approval_until
         WHERE {PENDING} AND c.escalated_at IS NULL
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")


# Those of `approvals.may_decide`, of a command `c`.
MAY_DECIDE: Final = """
    (c.approval_rule -> 'approvers' ?| CAST(:groups AS text[])
     OR (c.escalated_at IS NOT NULL
         AND c.approval_rule -> 'escalate_to' ?| CAST(:groups AS text[]))
     OR (:operator AND coalesce(c.approval_rule -> 'approvers', '[]') = '[]'))
"""

WAITING: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id AND c.approval = 'pending' AND c.state = 'queued'
       AND (CAST(:before AS uuid) IS NULL OR c.id < :before)
       AND {MAY_DECIDE}
     ORDER BY c.id DESC
     LIMIT :limit
""")


async def waiting(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    groups: Sequence[str],
    operator: bool,
    before: UUID | None,
    limit: int,
) -> list[Command]:
    """A tenant's calls that wait for a decision of one of these groups, or an operator's."""
    assert 0 < limit <= LIST_MAX
    rows = await conn.execute(
        WAITING,
        {
            "tenant_id": tenant_id,
            "groups": list(groups),
            "operator": operator,
            "before": before,
            "limit": limit,
        },
    )
    return [Command.of(row) for row in rows.mappings()]


async def deny(
    conn: AsyncConnection, command: Command, *, actor: str, body: Mapping[str, Any]
) -> Command | None:
    """Record a denial of a pending command; None where it is not pending."""
    return await moved(conn, DENY, command, kind="command.denied", actor=actor, body=body)


async def approve(
    conn: AsyncConnection,
    command: Command,
    *,
    user_id: str,
    goes: bool,
    actor: str,
    body: Mapping[str, Any],
) -> Command | None:
    """Count somebody's approval of a locked command; `goes` where it is the last that it needs.

    None where it is not pending, or where the time to decide is over.
    """
    return await moved(
        conn,
        APPROVE,
        command,
        kind="command.approved" if goes else "approval.counted",
        actor=actor,
        body=body,
        decision="approved" if goes else "pending",
        user=user_id,
        counted=len(command.approvals or ()),
    )


async def escalate(
    conn: AsyncConnection, command: Command, *, actor: str, body: Mapping[str, Any]
) -> Command | None:
    """Let more groups decide about a pending command; None where they may, or it is decided."""
    return await moved(conn, ESCALATE, command, kind="approval.escalated", actor=actor, body=body)


async def refuse(
    conn: AsyncConnection, command: Command, *, actor: str, body: Mapping[str, Any]
) -> None:
    """Audit that somebody decided who may not."""
    values = audited(command, kind="approval.refused", actor=actor, body=body)
    await conn.execute(NOTE, values)
