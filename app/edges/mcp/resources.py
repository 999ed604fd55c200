"""Commands as MCP resources: `command://<command_id>` is a command with its whole result."""

from uuid import UUID

from mcp import types
from mcp.shared.exceptions import MCPError

from app.edges.commands import find
from app.edges.mcp.calls import Context, identity_of, one_page
from app.edges.mcp.shown import as_text
from app.edges.mcp.words import URI
from app.edges.parts import Parts
from app.errors import BadRequestError, BrokerError, cut


class Resources:
    """The handlers of resources/list, resources/templates/list and resources/read."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker

    async def list_none(
        self, _ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        one_page(params)
        return types.ListResourcesResult(resources=[], cache_scope="private")

    async def templates(
        self, _ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        one_page(params)
        template = types.ResourceTemplate(
            uri_template=f"{URI}{{command_id}}",
            name="command",
            title="A command and its whole result",
            mime_type="application/json",
        )
        return types.ListResourceTemplatesResult(
            resource_templates=[template], cache_scope="private"
        )

    async def read(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            if not uri.startswith(URI):
                raise BadRequestError("Resources here are command://<command_id>.")
            command = await find(self._broker, identity_of(ctx), UUID(uri.removeprefix(URI)))
        except (BrokerError, ValueError) as error:
            raise MCPError(
                types.INVALID_PARAMS,
                f"Resource not found: {cut(uri)}. Resources are command://<command_id>.",
                {"uri": cut(uri)},
            ) from error
        text = await as_text(self._broker, command)
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[contents], cache_scope="private")
