"""What time takes from ended commands: keys, arguments, results. Called by the relay's clock.

Safe on any number of relays: each window is one short statement that skips what another relay has.
A command's row, its state and its audit trail stay; only its owner's data goes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands import control
from app.commands.attempts import Change
from app.commands.pauses import NoPauses, Pauses
from app.commands.state import State
from app.commands.store import commands, retention
from app.commands.store.retention import Window
from app.config import Settings
from app.errors import NotCancellableError

ROWS: Final = 500
"""Rows a statement: some milliseconds, so intake of a key that is released hardly waits."""

ACTOR: Final = "clock"


@dataclass(slots=True)
class Purged:
    """What a pass has done."""

    keys: int = 0
    bodies: int = 0


async def purge(pool: asyncpg.Pool, settings: Settings) -> Purged:
    """One pass over all that is older than it may be, in windows, each a transaction."""
    return Purged(
        keys=await _pass(pool, retention.purge_keys, settings.keys_kept_s),
        bodies=await _pass(pool, retention.purge_bodies, settings.bodies_kept_s),
    )


async def _pass(
    pool: asyncpg.Pool, purge_window: Callable[..., Awaitable[Window]], kept_s: float
) -> int:
    purged = 0
    after: tuple[datetime, UUID] | None = retention.START
    while after is not None:
        window = await purge_window(pool, kept_s=kept_s, after=after, limit=ROWS)
        purged, after = purged + window.purged, window.after
    return purged


async def discard_forgotten(
    engine: AsyncEngine, settings: Settings, *, pauses: Pauses | None = None
) -> list[Change]:
    """Discard dead letters that nobody settled in time, but those that a key waits for."""
    kept_s = settings.dead_letters_kept_s
    async with engine.connect() as conn:
        found = await retention.forgotten(conn, kept_s=kept_s, limit=ROWS)
    reason = f"Nobody settled it for {kept_s / 86400:g} days."
    return await (pauses or NoPauses()).each(found, lambda one: _discard(engine, one, reason))


async def _discard(engine: AsyncEngine, command_id: UUID, reason: str) -> Change | None:
    async with engine.begin() as conn:
        found = await commands.find(conn, command_id)
        command = None if found is None else await control.locked(conn, found)
        if command is None or command.state is not State.DEAD_LETTERED or command.discarded_at:
            return None
        try:
            return await control.discard(conn, command, actor=ACTOR, reason=reason)
        except NotCancellableError:
            return None  # its key waits to know what it did: only a report or a decision settles it
