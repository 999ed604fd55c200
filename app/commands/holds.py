"""Holds: what operators keep from being dispatched, and how that begins and ends.

From the moment at which `place` answers nothing of the hold goes out any more: it is written while
no claim runs, each later claim keeps back what the hold is of, and what a relay had taken before is
waited for. What is dispatched already goes on: its adapter has it.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.store import holds as hold_rows
from app.commands.store.holds import Hold
from app.errors import BadRequestError, NotFoundError, UnknownToolError
from app.postgres.engine import each_by_itself, tenant_transaction

HOLDS_MAX: Final = 100
"""In force at a time, of a tenant."""
ROWS: Final = 1000
"""Rows a statement, when a hold begins or ends."""
ROWS_MAX: Final = 1_000_000
"""Rows that one request moves; claims and the clock move what is left."""
LEAVE_S: Final = 10.0
"""For what a relay had taken to be published, or given back."""
LEAVE_POLL_S: Final = 0.02
DUE_MAX: Final = 100

CLOCK: Final = "clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which calls: those that fit all that is given; nothing given is every call of the tenant."""

    tool: str | None = None
    method: str | None = None
    ordering_key: str | None = None
    args_path: tuple[str, ...] | None = None
    args_value: Any = None

    def values(self, tenant_id: str) -> dict[str, Any]:
        """As statements take it."""
        return {
            "tenant_id": tenant_id,
            "tool": self.tool,
            "method": self.method,
            "ordering_key": self.ordering_key,
            "args_path": None if self.args_path is None else list(self.args_path),
            "args_value": self.args_value,
        }

    def check(self, paths: Iterable[tuple[str, str]]) -> None:
        """What was mistyped holds nothing: the tool is one of these in service, and its method.

        Raises:
            UnknownToolError: it is not.
        """
        if self.tool is None:
            return
        named = {method for tool, method in paths if tool == self.tool}
        if not named or self.method not in {None, *named}:
            path = self.tool if self.method is None else f"{self.tool}/{self.method}"
            raise UnknownToolError(f"There is no tool {path!r} in service.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A hold in force."""

    hold: Hold
    queued: int
    in_flight: int
    leaving: int
    """Calls that a relay had taken before and has neither published nor given back yet."""


async def preview(engine: AsyncEngine, tenant_id: str, which: Which) -> tuple[int, int]:
    """How many calls would wait for such a hold, and how many are past it: dispatched, running."""
    async with tenant_transaction(engine, tenant_id) as conn:
        return await hold_rows.count(conn, **which.values(tenant_id))


async def place(
    engine: AsyncEngine,
    tenant_id: str,
    which: Which,
    *,
    effect: str,
    reason: str,
    until: datetime | None,
    actor: str,
    leave_s: float = LEAVE_S,
) -> Placed:
    """Hold calls. Once this returns nothing of them is dispatched but what `leaving` counts.

    Raises:
        BadRequestError: the tenant has as many holds as it may.
    """
    assert effect in {"wait", "refuse"}
    async with tenant_transaction(engine, tenant_id) as conn:
        queued, in_flight = await hold_rows.count(conn, **which.values(tenant_id))
    async with tenant_transaction(engine, tenant_id) as conn:
        await hold_rows.lock(conn)
        if len(await hold_rows.active(conn, tenant_id=tenant_id, limit=HOLDS_MAX)) == HOLDS_MAX:
            raise BadRequestError(f"There are {HOLDS_MAX} holds in force: release one before.")
        hold = await hold_rows.place(
            conn,
            **which.values(tenant_id),
            id=uuid_utils.uuid7(),
            effect=effect,
            reason=reason,
            until=until,
            actor=actor,
        )
        await hold_rows.announce(conn)
    for _ in range(ROWS_MAX // ROWS):
        async with tenant_transaction(engine, tenant_id) as conn:
            if await hold_rows.keep_back(conn, hold.id, limit=ROWS) < ROWS:
                break
    leaving = await left(engine, tenant_id, hold.id, leave_s)
    return Placed(hold=hold, queued=queued, in_flight=in_flight, leaving=leaving)


async def left(engine: AsyncEngine, tenant_id: str, hold_id: UUID, leave_s: float) -> int:
    """Wait for what relays had taken; returns how many of it they still have."""
    until = time.monotonic() + leave_s
    while True:
        async with tenant_transaction(engine, tenant_id) as conn:
            leaving = await hold_rows.leaving(conn, hold_id)
        if leaving == 0 or time.monotonic() >= until:
            return leaving
        await asyncio.sleep(LEAVE_POLL_S)


async def release(
    engine: AsyncEngine, tenant_id: str, hold_id: UUID, *, actor: str, reason: str
) -> Hold:
    """End a hold: what waits for it goes on, unless another one is of it.

    Raises:
        NotFoundError: the tenant has no such hold in force.
    """
    async with tenant_transaction(engine, tenant_id) as conn:
        await hold_rows.lock(conn)
        released = await hold_rows.release(conn, hold_id, actor=actor, reason=reason)
        await hold_rows.announce(conn)
    if released is None:
        raise NotFoundError(f"You have no hold {hold_id} in force.", hold_id=str(hold_id))
    for _ in range(ROWS_MAX // ROWS):
        async with tenant_transaction(engine, tenant_id) as conn:
            if await hold_rows.free(conn, hold_id, limit=ROWS) < ROWS:
                break
    return released


async def in_force(engine: AsyncEngine, tenant_id: str) -> list[Hold]:
    """A tenant's holds, the oldest first."""
    async with tenant_transaction(engine, tenant_id) as conn:
        return await hold_rows.active(conn, tenant_id=tenant_id, limit=HOLDS_MAX)


async def expire(engine: AsyncEngine) -> int:
    """End the holds whose end has passed, and let go what waits for any that ended; how many rows.

    Called by the relay's clock, on any number of relays.
    """
    async with each_by_itself(engine) as conn:
        late = await hold_rows.due(conn, limit=DUE_MAX)
    for hold_id, _ in late:
        async with engine.begin() as conn:
            await hold_rows.lock(conn)
            await hold_rows.release(conn, hold_id, actor=CLOCK, reason=None)
    moved = 0
    async with each_by_itself(engine) as conn:
        for hold_id in await hold_rows.unfreed(conn, limit=DUE_MAX):
            freed = await hold_rows.free(conn, hold_id, limit=ROWS)
            if freed == 0:
                await hold_rows.freed(conn, hold_id)
            moved += freed
    return moved


def of_call(
    found: Sequence[Hold], *, tool: str, method: str, ordering_key: str | None, args: Any
) -> Hold | None:
    """The hold that a call meets, as far as is known here; one that refuses before one that waits.

    The claim is exact (`store.hold_match`); this is for what its caller is told at once.
    """
    met = [
        one
        for one in found
        if (one.until is None or one.until > datetime.now(UTC))
        and one.tool in {None, tool}
        and one.method in {None, method}
        and one.ordering_key in {None, ordering_key}
        and (one.args_path is None or _same(_at(args, one.args_path), one.args_value))
    ]
    return min(met, key=lambda one: (one.effect != "refuse", one.id), default=None)


def is_of(hold: Hold, which: Which) -> bool:
    """Whether a hold is of just these calls."""
    own = hold.args_path if hold.args_path is None else tuple(hold.args_path)
    same = (hold.tool, hold.method, hold.ordering_key, own) == (
        which.tool,
        which.method,
        which.ordering_key,
        which.args_path,
    )
    return same and _same(hold.args_value, which.args_value)


MISSING: Final = object()


def _at(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(value, Mapping) and step in value:
            value = value[step]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(value, list) and step.isascii() and step.isdecimal():
            place = int(step)
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            value = items[place] if place < len(items) else MISSING
        else:
            return MISSING
    return value  # pyright: ignore[reportUnknownVariableType]


def _same(one: Any, other: Any) -> bool:
    if one is MISSING:
        return False
    return _written(one) == _written(other)


def _written(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
