"""How the routes of the HTTP API read a body: as each entrance does, before FastAPI sees it."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.edges.bodies import is_json, parsed


class _Read(Request):
    """A request whose body has been read."""

    value: Any = None

    async def json(self) -> Any:
        return self.value


class StrictRoute(APIRoute):
    """A route whose JSON is held to `json_values`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with the body read first."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            if self.body_field is None or not is_json(request.headers.get("content-type")):
                return await handle(request)
            made = _Read(request.scope, request.receive)
            body = await made.body()
            if body:
                made.value = parsed(body)
            return await handle(made)

        return read
