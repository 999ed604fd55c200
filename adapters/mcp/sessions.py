"""One session with a server, kept for a target and tenant; opened anew when it was lost."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.extension import advertise
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from adapters import tls
from adapters.authorization import headers as credential_headers
from adapters.authorization import renew
from adapters.command.launching import Launcher
from adapters.command.specs import spec_of
from adapters.contract import (
    TARGET_CHANGED,
    TARGET_LOST,
    TARGET_UNAVAILABLE,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
)
from adapters.mcp import wire
from adapters.mcp.checks import STDIO
from adapters.mcp.digests import digest
from adapters.mcp.errors import HEADERS_DIFFER, failed
from adapters.mcp.stdio import stdio

logger = logging.getLogger(__name__)

TASKS: Final = "io.modelcontextprotocol/tasks"
PAGES_MAX: Final = 100
LIST_S: Final = 60.0
"""How long a listing counts where a server does not say when it has changed."""
LISTEN_AGAIN_S: Final = 5.0
CLOSE_S: Final = 20.0


class Session:
    """A connected client, and what the server last said of its tools."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.calls = 0
        self.lost = False
        self._stop = asyncio.Event()
        self._listing = asyncio.Lock()
        self._digests: dict[str, str] = {}
        self._listed_at: float | None = None

    def end(self) -> None:
        """Let the task that opened it close it."""
        self._stop.set()

    async def ended(self) -> None:
        """Wait until it is to be closed."""
        await self._stop.wait()

    async def hear(self, message: Any) -> None:
        """Forget the tools where the server says that they have changed."""
        if isinstance(message, types.ToolListChangedNotification):
            self._listed_at = None

    async def tool(self, name: str) -> str | None:
        """The digest of a tool as it is now, or None where there is none."""
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if self._listed_at is None or now - self._listed_at > LIST_S:
                told = await self.tools()
                self._digests = {one["name"]: digest(one) for one in told}
                self._listed_at = now
        return self._digests.get(name)

    def forget_tools(self) -> None:
        """List them anew before the next call."""
        self._listed_at = None

    async def tools(self) -> list[dict[str, Any]]:
        """The server's tools, as `tools/list` has them.

        Raises:
            CallFailedError: there is no end of them.
        """
        assert self.client is not None
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await self.client.list_tools(cursor=cursor)
            found += [
                one.model_dump(by_alias=True, exclude_none=True, mode="json") for one in page.tools
            ]
            cursor = page.next_cursor
            if cursor is None:
                return found
        words = f"The server's list of tools has over {PAGES_MAX} pages."
        raise CallFailedError(Known.REFUSED, TARGET_CHANGED, words)


class Sessions:
    """Opens a target's session, and lets go of lost ones."""

    def __init__(self, opening: Opening) -> None:
        assert isinstance(opening.shared, Launcher)
        self._opening = opening
        self._launcher = opening.shared
        self._current: Session | None = None
        self._lock = asyncio.Lock()
        self._keeping = set[asyncio.Task[None]]()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """The session, for one call; one that it loses is closed when its last call has ended.

        Raises:
            CallFailedError: the server cannot be reached; or what became of a request in the
                block, in place of MCPError.
        """
        async with self._lock:
            if self._current is None or self._current.lost:
                self._current = await self._open()
            session = self._current
        session.calls += 1
        try:
            yield session
        except MCPError as error:
            found = failed(error)
            if found.code in (TARGET_LOST, wire.SESSION_LOST):
                session.lost = True
            if found.code == HEADERS_DIFFER:
                session.forget_tools()
            raise found from None
        finally:
            session.calls -= 1
            if session.lost and session.calls == 0:
                session.end()

    async def close(self) -> None:
        """Close all."""
        if self._current is not None:
            self._current.end()
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=CLOSE_S)
        for task in self._keeping:
            task.cancel()

    async def _open(self) -> Session:
        session, opened = Session(), asyncio.get_running_loop().create_future()
        said = bytearray()
        task = asyncio.create_task(self._keep(session, opened, said))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)
        try:
            async with asyncio.timeout(self._opening.target.limits.connect_s):
                await asyncio.shield(opened)
        except TimeoutError:
            task.cancel()
            raise _unreachable("it does not answer", said) from None
        except CallFailedError:
            raise
        except asyncio.CancelledError:
            task.cancel()
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it was, there is no session
            raise _unreachable(_words(error), said) from None
        return session

    async def _keep(self, session: Session, opened: asyncio.Future[None], said: bytearray) -> None:
        """Own the client: it must be left by the task that entered it."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                transport = await self._transport(stack, said)
                client = Client(
                    transport,
                    mode=self._opening.target.options.get("era", "auto"),
                    message_handler=session.hear,
                    client_info=types.Implementation(name="mcp-broker", version="1"),
                    extensions=[advertise(TASKS)],
                    cache=None,
                )
                session.client = await stack.enter_async_context(client)
                if not opened.done():
                    opened.set_result(None)
                listening = asyncio.create_task(_listen(session, client))
                try:
                    await session.ended()
                finally:
                    listening.cancel()
                    await asyncio.wait((listening,))
        except Exception as error:  # noqa: BLE001 -- the SDK's transports raise anything
            session.lost = True
            if not opened.done():
                opened.set_exception(_known(error))
            else:
                logger.info("an MCP session ended", extra={"error": _words(error)})
        finally:
            opened.cancel()

    async def _transport(self, stack: contextlib.AsyncExitStack, said: bytearray) -> Any:
        target = self._opening.target
        if target.address.startswith(STDIO):
            program = target.address.removeprefix(STDIO)
            argv = [program, *target.options.get("args", ())]
            spec = await spec_of(self._opening, argv, {})
            return stdio(self._launcher, spec, self._opening, said)
        trust = await tls.context(target.tls, self._opening.secrets)
        guarded = wire.Guarded(
            httpx2.AsyncHTTPTransport(
                verify=trust,
                limits=httpx2.Limits(
                    max_connections=None, max_keepalive_connections=target.limits.calls_max
                ),
            ),
            self._headers,
            lambda call: renew(target, self._opening.secrets, call),
            server_name=target.tls.server_name,
            bytes_max=target.limits.result_bytes_max + 65536,
        )
        timeout = httpx2.Timeout(None, connect=target.limits.connect_s)
        client = httpx2.AsyncClient(transport=guarded, timeout=timeout, trust_env=False)
        await stack.enter_async_context(client)
        return streamable_http_client(
            target.address,
            http_client=client,
            max_sse_event_size=target.limits.result_bytes_max + 65536,
        )

    async def _headers(self, call: AdapterCall | None) -> dict[str, str]:
        return await credential_headers(self._opening.target, self._opening.secrets, call)


async def _listen(session: Session, client: Client) -> None:
    """Hear of changed tools in the newer era, where a server says such things only when asked.

    One whose era is given is not asked for its capabilities, so it is tried.
    """
    tools = client.server_capabilities.tools
    is_without = tools is not None and not tools.list_changed
    if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or is_without:
        return
    while True:
        with contextlib.suppress(SubscriptionLost):
            try:
                async with client.listen(tools_list_changed=True) as events:
                    session.forget_tools()
                    async for _ in events:
                        session.forget_tools()
            except (ListenNotSupportedError, MCPError, TimeoutError):
                return
        await asyncio.sleep(LISTEN_AGAIN_S)


def _known(error: BaseException) -> Exception:
    """What a failed opening was, out of the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        return _known(error.exceptions[0])
    if isinstance(error, MCPError):
        found = wire.broken(error.error.data)
        if found is not None and found.known in (Known.NOT_DONE, Known.REFUSED):
            return found
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _unreachable(words: str, said: bytearray) -> CallFailedError:
    stderr = said.decode(errors="replace").replace("\0", "\ufffd").strip()
    return CallFailedError(
        Known.NOT_DONE,
        TARGET_UNAVAILABLE,
        f"The server cannot be worked with: {words}.",
        details={"stderr": stderr} if stderr else None,
    )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
