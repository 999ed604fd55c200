"""What a server offers, for who reviews it: its name, and its tools as it tells of them."""

from dataclasses import dataclass
from typing import Any

from adapters.contract import Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A server, and its tools in its order."""

    server: str
    version: str
    tools: list[dict[str, Any]]


async def listed(opening: Opening) -> Listed:
    """Ask a server by a session of its own.

    Raises:
        CallFailedError: it cannot be reached, or does not say.
    """
    # Here, as the SDK takes seconds to load and a command line has other commands, too.
    from adapters.mcp.sessions import Sessions  # noqa: PLC0415

    sessions = Sessions(opening)
    try:
        async with sessions.session() as session:
            assert session.client is not None
            about = session.client.server_info
            return Listed(
                server=about.name if about else "",
                version=about.version if about else "",
                tools=await session.tools(),
            )
    finally:
        await sessions.close()
