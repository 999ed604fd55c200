"""The hot routes past FastAPI: `POST /mcp/tools/call` as plain ASGI, and the MCP front.

FastAPI's routing, dependencies and middleware cost more of a call than accepting it does
(docs/PERFORMANCE.md). Its route of the same path stays, as the documented contract; both read a
request in the same way and call `calls.called`, and a test holds their answers side by side.
"""

from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.asserted import LABELS_HEADER
from app.contract import CallBody, Key
from app.edges.bodies import is_json, parsed
from app.edges.failures import framework_problem, invalid, placed, translated
from app.edges.http import results
from app.edges.http.calls import CALL_PATH, called
from app.edges.http.replies import CallHeaders
from app.edges.parts import Parts
from app.postgres.engine import AWAY

BODY: Final = TypeAdapter(CallBody)
KEY: Final = TypeAdapter[str](Key)


@dataclass(frozen=True, slots=True)
class FastCall:
    """Serves the hot routes; hands everything else on. Errors are for the guard outside."""

    app: ASGIApp
    mcp: ASGIApp
    broker: Parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            BrokerError: it is refused; nothing was sent yet.
        """
        if scope["type"] == "http" and scope["path"] == CALL_PATH and scope["method"] == "POST":
            await self._called(scope, receive, send)
        elif self._is_report(scope):
            await self._reported(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/mcp":
            await self.mcp(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_report(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        path: str = scope["path"]
        return path.startswith(results.PATH) and is_json(Headers(scope=scope).get("content-type"))

    async def _reported(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, written = scope["path"], b""
        try:
            written = await Request(scope, receive).body()
            peer = "unknown" if scope["client"] is None else scope["client"][0]
            response = await results.fast(
                self.broker, scope["broker.identity"], path, value_of(written), peer=peer
            )
        except ClientDisconnect:
            return
        except HTTPException as error:
            response = framework_problem(error)
        except AWAY as error:
            raise translated(error, path=path) from error
        if response is None:
            await self.app(scope, replayed(written), send)
        else:
            await response(scope, receive, send)

    async def _called(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Headers(scope=scope), scope, receive)
        except ClientDisconnect:
            return  # in the middle of the body: nothing was started, and nobody listens
        except HTTPException as error:
            response = framework_problem(error)
        except ValidationError as error:
            raise invalid(error) from error
        except AWAY as error:
            raise translated(error, path=CALL_PATH) from error
        await response(scope, receive, send)

    async def _answer(self, headers: Headers, scope: Scope, receive: Receive) -> Response:
        key, body = read(headers, await Request(scope, receive).body())
        return await called(
            self.broker,
            scope["broker.identity"],
            body,
            CallHeaders(
                idempotency_key=key,
                prefer=headers.get("prefer"),
                traceparent=headers.get("traceparent"),
                mcp_broker_labels=headers.get(LABELS_HEADER),
            ),
        )


def read(headers: Headers, written: bytes) -> tuple[str | None, CallBody]:
    """The Idempotency-Key and the envelope, or every problem with them, as FastAPI tells them.

    Raises:
        BadRequestError, InvalidArgumentsError: they are not of the contract's shape.
    """
    given_key = headers.get("idempotency-key")
    value: Any = written
    if is_json(headers.get("content-type")) or not written:
        value = value_of(written)
    found: list[Any] = []
    key: str | None = None
    try:
        key = None if given_key is None else KEY.validate_python(given_key)
    except ValidationError as error:
        found += placed(error, "header", "idempotency-key")
    try:
        body = BODY.validate_python(value, from_attributes=True)
    except ValidationError as error:
        found += placed(error, "body")
        raise invalid(RequestValidationError(found)) from error
    if found:
        raise invalid(RequestValidationError(found))
    return key, body


def value_of(written: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        BadRequestError: it is empty, or none that is taken.
    """
    if not written:
        raise invalid(problems(("body",), "Field required"))
    return parsed(written)


def replayed(body: bytes) -> Receive:
    """A request's body once more, for whoever reads it next."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def problems(place: tuple[str | int, ...], message: str) -> RequestValidationError:
    """One problem that is not a field's."""
    return RequestValidationError([{"loc": place, "msg": message}])
