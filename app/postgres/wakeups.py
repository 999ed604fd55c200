"""Wakeups between processes: coalesced NOTIFY after commit, LISTEN on a connection of its own.

A NOTIFY inside the business transaction takes a cluster-wide lock through its commit and costs
2.5-5 times the throughput under load, so what changed is gathered here for some milliseconds and
said once. A wakeup is a hint: whoever waits also polls.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final
from uuid import UUID

import asyncpg

from app import metrics
from app.postgres.connect import connect, usable
from app.postgres.engine import AWAY, SERVER_SETTINGS

logger = logging.getLogger(__name__)

OUTBOX: Final = "broker_outbox"
COMMANDS: Final = "broker_commands"
CATALOG: Final = "broker_catalog"
SAGAS: Final = "broker_sagas"
STOPS: Final = "broker_stops"

# A payload is under 8,000 bytes; a command's id is 36, a stopped request's name 64.
IDS_PER_PAYLOAD: Final = 200
IDS_MAX: Final = 10_000
STOPS_PER_PAYLOAD: Final = 100
RECONNECT_S: Final = 0.5
PROBE_EVERY_S: Final = 10.0
"""A connection that only listens would never find out that it is lost."""

NOTIFY: Final = "SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS said (c, p)"


class Notifier:
    """Says what changed in this process: at once, but at most once a period, gathered."""

    def __init__(self, pool: asyncpg.Pool, *, coalesce_ms: float) -> None:
        self._pool = pool
        self._coalesce_s = coalesce_ms / 1000
        self._commands: set[UUID] = set()
        self._stops: set[str] = set()
        self._outbox = False
        self._sagas = False
        self._some = asyncio.Event()

    def outbox(self) -> None:
        """Outbox rows became ready; call after the commit."""
        self._outbox = True
        self._some.set()

    def sagas(self) -> None:
        """Some saga has a tick; call after the commit."""
        self._sagas = True
        self._some.set()

    def commands(self, ids: Iterable[UUID]) -> None:
        """These commands changed; call after the commit."""
        self._commands.update(ids)
        self._some.set()

    def stop(self, name: str) -> None:
        """A request that another replica may serve was given up; nothing polls for this.

        So what could not be said is said as soon as that goes again.
        """
        self._stops.add(name)
        self._some.set()

    async def run(self) -> None:
        """Say what was gathered until cancelled. What cannot be said is said again."""
        said_at = float("-inf")
        while True:
            await self._some.wait()
            await asyncio.sleep(max(0, said_at + self._coalesce_s - time.monotonic()))
            said_at = time.monotonic()
            self._some.clear()
            ids, self._commands = self._commands, set()
            stops, self._stops = sorted(self._stops), set()
            outbox, self._outbox = self._outbox, False
            sagas, self._sagas = self._sagas, False
            said = [(OUTBOX, "")] if outbox else []
            said += [(SAGAS, "")] if sagas else []
            if len(ids) > IDS_MAX:
                said += [(COMMANDS, "")]  # any may have changed
            else:
                named = sorted(map(str, ids))
                said += [(COMMANDS, part) for part in payloads(named, IDS_PER_PAYLOAD)]
            said += [(STOPS, part) for part in payloads(stops, STOPS_PER_PAYLOAD)]
            try:
                await self._pool.execute(NOTIFY, [c for c, _ in said], [p for _, p in said])
            except AWAY as error:
                logger.warning("wakeup not sent, polling covers it until it is: %r", error)
                self._outbox, self._sagas = self._outbox or outbox, self._sagas or sagas
                self._commands.update(ids)
                self._stops.update(stops)
                asyncio.get_running_loop().call_later(RECONNECT_S, self._some.set)


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
                    await conn.add_listener(channel, _adapt(handler))
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


def parse_ids(payload: str) -> list[UUID]:
    """The command ids of a notification; none in "", which means any may have changed."""
    return [UUID(part) for part in payload.split(",") if part]
