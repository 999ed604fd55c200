"""Kind `mcp`: a tool of another MCP server, over streamable HTTP or stdio."""

from typing import Final

from adapters.command.launching import Launcher
from adapters.contract import Adapter, Kind, Opening
from adapters.mcp.checks import check


def _open(opening: Opening) -> Adapter:
    """An adapter. The SDK takes as long to load as all the rest, and a check needs none of it."""
    from adapters.mcp.calls import McpTarget  # noqa: PLC0415

    return McpTarget(opening)


KIND: Final = Kind(open=_open, check=check, share=Launcher)
