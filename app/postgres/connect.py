"""One way to PostgreSQL for every pool: to a server that takes writes, and never for ever.

A connection can go silent without an end (a dropped route, a frozen proxy), and a server can be
demoted beneath it. Both are found by whoever uses it next, and all of its pool is given up then,
as the other connections are as old.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import asyncpg

CONNECT_S: Final = 10.0
COMMAND_S: Final = 15.0
"""A statement is given up on; the server's own limit (engine.SERVER_SETTINGS) comes first."""
CANCEL_S: Final = 2.0
"""A server that does not answer a cancel for so long is not there: the connection is closed."""
PROBE_S: Final = 2.0
"""Nor is one that does not answer nothing at all."""
IDLE_S: Final = 1.0
"""What was used this recently is not probed."""

TCP: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    *(
        (getattr(socket, name), socket.IPPROTO_TCP, value)
        # Seconds to the first probe, between them, and how many; milliseconds unacknowledged.
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", 15_000),
        )
        if hasattr(socket, name)  # not every system has all
    ),
)


class Connection(asyncpg.Connection):
    """A connection that is closed where its server answers nothing, not even a cancel."""

    used_at: float = float("-inf")
    on_lost: Callable[[], Awaitable[None]] | None = None

    def _cancel_current_command(self, waiter: Any, cancel_waiter: Any = None) -> None:
        super()._cancel_current_command(waiter, cancel_waiter)
        loop = asyncio.get_running_loop()
        loop.call_later(CANCEL_S, lambda: loop.create_task(self._end_if_silent(cancel_waiter)))

    async def _end_if_silent(self, answered: "asyncio.Future[None] | None") -> None:
        if answered is not None and answered.done():
            return
        self.terminate()
        if self.on_lost is not None:
            await self.on_lost()


def plain(url: str) -> str:
    """A URL as the driver takes it, with several hosts and target_session_attrs where named."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


async def connect(
    url: str, *, server_settings: Mapping[str, str], writes: bool = True, **options: Any
) -> Connection:
    """A connection to a server that takes writes, unless the URL asks for another (or `writes`).

    Raises:
        AWAY: there is none.
    """
    if writes and "target_session_attrs" not in url:
        options["target_session_attrs"] = "read-write"
    usual: dict[str, Any] = {
        "timeout": CONNECT_S,
        "command_timeout": COMMAND_S,
        "connection_class": Connection,
    }
    made = await asyncpg.connect(
        plain(url), server_settings=dict(server_settings), **usual | options
    )
    assert isinstance(made, Connection)
    _watch(made)
    return made


def only_reads(conn: asyncpg.Connection) -> bool:
    """Whether the server has said that it takes no writes any more: no question is asked."""
    settings = conn.get_settings()
    names = ("in_hot_standby", "default_transaction_read_only")
    return any(getattr(settings, name, "off") == "on" for name in names)


async def usable(conn: asyncpg.Connection) -> bool:
    """Whether the server answers, and takes writes."""
    if conn.is_closed() or only_reads(conn):
        return False
    lost = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
    try:
        await conn.execute("SELECT", timeout=PROBE_S)
    except (*lost, asyncpg.InternalClientError):
        conn.terminate()  # else the pool says goodbye to it, and waits for an answer again
        return False
    return not (conn.is_closed() or only_reads(conn))


def _watch(conn: asyncpg.Connection) -> None:
    """Have the kernel end a connection whose peer is gone, in seconds rather than in hours."""
    transport: asyncio.Transport = getattr(conn, "_transport")  # noqa: B009 no name for it
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None or found.family == socket.AF_UNIX:
        return
    # A transport's own socket sets no options (uvloop's); those of its copy are the same.
    with socket.socket(fileno=socket.dup(found.fileno())) as copy:
        for option, level, value in TCP:
            copy.setsockopt(level, option, value)
