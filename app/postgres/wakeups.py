"""Wakeups between processes: coalesced NOTIFY after commit, LISTEN on a connection of its own.

A NOTIFY inside the business transaction takes a cluster-wide lock through its commit and costs
2.5-5 times the throughput under load, so what changed is gathered here for some milliseconds and
said once. A wakeup is a hint: whoever waits also polls.

Any login of the database may listen, and notify. So no command's id is said, only a hash of it by
which who waits for the command knows it; and what names nothing is heard some times a second only,
however often it is said.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from hashlib import sha256
from typing import Final
from uuid import UUID

import asyncpg

from app import metrics
from app.postgres.connect import connect, usable
from app.postgres.engine import AWAY, SERVER_SETTINGS

logger = logging.getLogger(__name__)

OUTBOX: Final = "broker_outbox"
COMMANDS: Final = "broker_commands"
MOVES: Final = "broker_moves"
CALLS: Final = "calls"
"""Of OUTBOX: only new calls became ready, nothing that is said of commands."""
CATALOG: Final = "broker_catalog"
HOLDS: Final = "broker_holds"
SAGAS: Final = "broker_sagas"
STOPS: Final = "broker_stops"

# A payload is under 8,000 bytes; a command's mark is 36, a stopped request's name 64.
IDS_PER_PAYLOAD: Final = 200
IDS_MAX: Final = 10_000
STOPS_PER_PAYLOAD: Final = 100
RECONNECT_S: Final = 0.5
BURST: Final = 4
"""NOTIFYs that may follow each other at once after a quiet time. With one, a call that came right
after another's end waited for the whole period: of 15 ms of a call's whole life, 5."""
MOVES_S: Final = 0.05
"""Within this it is said that commands moved, and have not ended: nobody waits for that alone."""
PROBE_EVERY_S: Final = 10.0
"""A connection that only listens would never find out that it is lost."""

NAMELESS: Final = ("", "?", CALLS)
"""Payloads that name nothing: much may have changed, or somebody asks."""
GAP_S: Final = 0.2
GAPS_S: Final = {OUTBOX: 0.005, SAGAS: 0.005}
"""Between two such of a channel that are heard; of wakeups it is what nobody notices."""
BURSTS: Final = {CATALOG: 8, HOLDS: 8}
"""How many of a channel are heard at once after a quiet time, one where it is not here. Nothing
polls for catalog and holds at once: with one, an operator's second change was served 0.2 s late."""

NOTIFY: Final = "SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS said (c, p)"


class Notifier:
    """Says what changed in this process: at once, but under load once a period, gathered."""

    def __init__(self, pool: asyncpg.Pool, *, coalesce_ms: float) -> None:
        self._pool = pool
        self._coalesce_s = coalesce_ms / 1000
        self._commands: set[str] = set()
        self._moves: set[str] = set()
        self._moves_due: asyncio.TimerHandle | None = None
        self._stops: set[str] = set()
        self._outbox: str | None = None  # what is said of it; nothing where None
        self._sagas = False
        self._some = asyncio.Event()

    def outbox(self) -> None:
        """Outbox rows became ready; call after the commit."""
        self._outbox = ""
        self._some.set()

    def calls(self) -> None:
        """Outbox rows of new calls became ready; call after the commit."""
        if self._outbox is None:
            self._outbox = CALLS
        self._some.set()

    def sagas(self) -> None:
        """Some saga has a tick; call after the commit."""
        self._sagas = True
        self._some.set()

    def commands(self, ids: Iterable[UUID]) -> None:
        """These commands changed, and may have ended; call after the commit."""
        self._commands.update(map(mark, ids))
        self._some.set()

    def moves(self, ids: Iterable[UUID]) -> None:
        """These commands changed and have not ended: said with what is said next, or soon."""
        self._moves.update(map(mark, ids))
        if self._moves and self._moves_due is None:
            self._moves_due = asyncio.get_running_loop().call_later(MOVES_S, self._some.set)

    def stop(self, name: str) -> None:
        """A request that another replica may serve was given up; nothing polls for this.

        So what could not be said is said as soon as that goes again.
        """
        self._stops.add(name)
        self._some.set()

    async def run(self) -> None:
        """Say what was gathered until cancelled. What cannot be said is said again."""
        room_at = float("-inf")  # when as many may be said at once as ever
        while True:
            await self._some.wait()
            earliest = room_at - (BURST - 1) * self._coalesce_s
            await asyncio.sleep(max(0, earliest - time.monotonic()))
            room_at = max(room_at, time.monotonic()) + self._coalesce_s
            self._some.clear()
            marks, self._commands = self._commands, set()
            moves, self._moves = self._moves, set()
            if self._moves_due is not None:
                self._moves_due.cancel()
                self._moves_due = None
            stops, self._stops = sorted(self._stops), set()
            outbox, self._outbox = self._outbox, None
            sagas, self._sagas = self._sagas, False
            notifications = [] if outbox is None else [(OUTBOX, outbox)]
            notifications += [(SAGAS, "")] if sagas else []
            notifications += [(COMMANDS, part) for part in _named(marks)]
            notifications += [(MOVES, part) for part in _named(moves - marks)]
            notifications += [(STOPS, part) for part in payloads(stops, STOPS_PER_PAYLOAD)]
            try:
                await self._pool.execute(
                    NOTIFY, [c for c, _ in notifications], [p for _, p in notifications]
                )
            except AWAY as error:
                logger.warning("wakeup not sent, polling covers it until it is: %r", error)
                self._outbox = outbox if self._outbox is None else ""
                self._sagas = self._sagas or sagas
                self._commands.update(marks)
                self._moves.update(moves)
                self._stops.update(stops)
                asyncio.get_running_loop().call_later(RECONNECT_S, self._some.set)


def _named(marks: set[str]) -> list[str]:
    """Payloads that name commands; an empty one says that any may have changed."""
    return [""] if len(marks) > IDS_MAX else payloads(sorted(marks), IDS_PER_PAYLOAD)


def payloads(parts: list[str], size: int) -> list[str]:
    """The parts, so many in each."""
    return [",".join(parts[start : start + size]) for start in range(0, len(parts), size)]


async def listen(dsn: str, handlers: dict[str, Callable[[str], None]], *, name: str) -> None:
    """Hand each notification to its channel's handler, until cancelled; reconnects for ever.

    After each connect every handler is called with "" once: something may have been missed.
    """
    while True:
        try:
            async with _connection(dsn, name) as conn:
                lost = asyncio.Event()
                conn.add_termination_listener(_setting(lost))
                for channel, handler in handlers.items():
                    heard = Bounded(
                        handler, gap_s=GAPS_S.get(channel, GAP_S), burst=BURSTS.get(channel, 1)
                    )
                    await conn.add_listener(channel, _adapt(heard))
                    handler("")
                metrics.LISTENING.set(1)
                while not lost.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_EVERY_S):
                            await lost.wait()
                    if not await usable(conn):
                        break
            metrics.LISTENING.set(0)
            logger.warning("listening connection lost, reconnecting")
        except AWAY as error:
            metrics.LISTENING.set(0)
            logger.warning("cannot listen, polling covers it: %r", error)
        await asyncio.sleep(RECONNECT_S)


class Bounded:
    """A handler that hears a burst of what names nothing at once, then one a gap; none is lost."""

    def __init__(self, handler: Callable[[str], None], *, gap_s: float, burst: int = 1) -> None:
        self._handler = handler
        self._gap_s = gap_s
        self._burst_s = (burst - 1) * gap_s
        self._room_at: defaultdict[str, float] = defaultdict(lambda: float("-inf"))
        self._due: set[str] = set()

    def __call__(self, payload: str) -> None:
        """A notification came."""
        if payload not in NAMELESS:
            self._handler(payload)
        elif payload not in self._due:
            loop = asyncio.get_running_loop()
            wait_s = self._room_at[payload] - self._burst_s - loop.time()
            if wait_s <= 0:
                self._hear(payload)
            else:
                self._due.add(payload)
                loop.call_later(wait_s, self._hear, payload)

    def _hear(self, payload: str) -> None:
        self._due.discard(payload)
        now = asyncio.get_running_loop().time()
        self._room_at[payload] = max(self._room_at[payload], now) + self._gap_s
        self._handler(payload)


def _setting(lost: asyncio.Event) -> Callable[..., None]:
    return lambda _conn: lost.set()


def _adapt(handler: Callable[[str], None]) -> Callable[..., None]:
    return lambda _conn, _pid, _channel, payload: handler(str(payload))


@contextlib.asynccontextmanager
async def _connection(dsn: str, name: str) -> AsyncGenerator[asyncpg.Connection]:
    settings = SERVER_SETTINGS | {"application_name": f"{name}-listen", "tcp_keepalives_idle": "30"}
    conn = await connect(dsn, server_settings=settings)
    try:
        yield conn
    finally:
        conn.terminate()


def mark(command_id: UUID) -> str:
    """What is said of a command: who has its id knows it by that, and nobody learns the id.

    In the form of an id, as a replica of an earlier release takes it for one that nobody waits for.
    """
    return str(UUID(bytes=sha256(command_id.bytes).digest()[:16]))


def marks(payload: str) -> set[str]:
    """The marks of a notification; none in "", which means any may have changed."""
    return set(payload.split(",")) if payload else set()
