"""An MCP server that tells of whatever tools it is given, at each question."""

from typing import Any

import mcp_types as types
from mcp.server import Server


class Told:
    """Its tools answer with their arguments."""

    def __init__(self) -> None:
        self.tools: list[dict[str, Any]] = []
        self.server = Server("told", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, _ctx: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult.model_validate(
            {"tools": self.tools, "ttlMs": 0, "cacheScope": "private"}
        )

    async def _call(self, _ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return types.CallToolResult(content=[], structured_content=params.arguments or {})
