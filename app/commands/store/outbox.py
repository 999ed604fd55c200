"""The outbox table as writers see it; how the relay takes from it is in `dispatch_claim.py`."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.envelope import partition_key
from app.commands.store.commands import Command
from app.contract import COMMANDS, WORKER_COMMANDS
from app.postgres.engine import dump

APPEND: Final = text("""
    INSERT INTO outbox (tenant_id, kind, topic, key, command_id, attempt, payload)
    VALUES (:tenant_id, :kind, :topic, :key, :command_id, :attempt, CAST(:payload AS json))
""")

# The cast keeps the pause's fraction: compared with 0, it would be sent as an integer. An attempt
# goes to whoever has the tool now, be it in service or not.
APPEND_ATTEMPT: Final = text(f"""
    INSERT INTO outbox (tenant_id, kind, topic, key, command_id, attempt, tool, method, priority,
                        exempt, status, available_at)
    VALUES (:tenant_id, 'command',
            CASE WHEN EXISTS (SELECT FROM tools
                               WHERE tool = :tool AND method = :method
                                 AND adapter ->> 'runs_on' = 'worker')
                 THEN '{WORKER_COMMANDS}' ELSE '{COMMANDS}' END,
            :key, :command_id, :attempt, :tool, :method, :priority, :exempt,
            CASE WHEN :held THEN 'held' WHEN CAST(:pause_s AS float8) > 0 THEN 'delayed'
                 ELSE 'ready' END,
            now() + make_interval(secs => CAST(:pause_s AS float8)))
""")

WITHDRAW: Final = text("""
    DELETE FROM outbox
     WHERE command_id = :command_id AND kind = 'command' AND status <> 'claimed'
""")

# It is due from now on: how long a person took is no part of the queue's wait.
READY: Final = text("""
    UPDATE outbox
       SET status = CASE WHEN available_at > now() THEN 'delayed' ELSE 'ready' END,
           available_at = greatest(available_at, now())
     WHERE command_id = :command_id AND kind = 'command' AND status = 'held'
    RETURNING 1
""")


async def append(
    conn: AsyncConnection,
    command: Command,
    *,
    kind: str,
    topic: str,
    payload: Mapping[str, Any],
) -> None:
    """Write an event about a command, to be published after the caller's commit."""
    await conn.execute(
        APPEND,
        {
            "tenant_id": command.tenant_id,
            "kind": kind,
            "topic": topic,
            "key": partition_key(command.tenant_id, command.ordering_key, command.id),
            "command_id": command.id,
            "attempt": command.attempt,
            "payload": dump(payload),
        },
    )


async def append_attempt(conn: AsyncConnection, command: Command, *, pause_s: float) -> None:
    """Write the command's current attempt, to be published after a pause."""
    await conn.execute(
        APPEND_ATTEMPT,
        {
            "tenant_id": command.tenant_id,
            "key": partition_key(command.tenant_id, command.ordering_key, command.id),
            "command_id": command.id,
            "attempt": command.attempt,
            "tool": command.tool,
            "method": command.method,
            "priority": command.priority,
            "exempt": command.saga_role == "undo",
            "held": command.held,
            "pause_s": float(pause_s),
        },
    )


async def withdraw(conn: AsyncConnection, command_id: UUID) -> None:
    """Drop unpublished attempts. One that a relay holds goes out, and its claim is refused."""
    await conn.execute(WITHDRAW, {"command_id": command_id})


async def make_ready(conn: AsyncConnection, command_id: UUID) -> bool:
    """Let a held attempt go: its approval came."""
    return bool(await conn.scalar(READY, {"command_id": command_id}))
