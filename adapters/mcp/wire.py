"""HTTP below the SDK's client: one broken exchange fails its own request, and says how it broke.

The SDK would end the whole session, and every call in it, at a refused connection, and tells of no
status. What goes wrong here becomes a JSON-RPC error of the one request, with `Broken` in its data.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, cast

import httpx2
import orjson

from adapters.contract import (
    RESULT_TOO_LARGE,
    TARGET_LOST,
    TARGET_UNAVAILABLE,
    AdapterCall,
    CallFailedError,
    Known,
)
from adapters.http import judging
from adapters.http.bodies import ERROR_BYTES_MAX, Answer
from adapters.http.sending import BEFORE

CALL: Final[ContextVar[AdapterCall | None]] = ContextVar("call", default=None)
"""The call that a request is made for; the SDK carries it to the task that sends."""
BROKEN: Final = "dev.mcpbroker/broken"
BROKEN_CODE: Final = -32099
SESSION_HEADER: Final = "mcp-session-id"
SESSION_LOST: Final = "session_lost"
NOT_FOUND: Final = 404
UNAUTHENTICATED: Final = 401
FIRST_ERROR: Final = 400

Headers = Callable[[AdapterCall | None], Awaitable[dict[str, str]]]


class Guarded(httpx2.AsyncBaseTransport):
    """Connections to one server."""

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        headers: Headers,
        renew: Callable[[AdapterCall | None], bool],
        *,
        server_name: str | None,
        bytes_max: int,
    ) -> None:
        self._inner = inner
        self._headers = headers
        self._renew = renew
        self._server_name = server_name
        self._bytes_max = bytes_max

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send, and answer with a JSON-RPC error where there is no answer."""
        call = CALL.get()
        try:
            request.headers.update(await self._headers(call))
            if call is not None and call.traceparent is not None:
                request.headers["traceparent"] = call.traceparent
            if self._server_name is not None:
                request.extensions = {**request.extensions, "sni_hostname": self._server_name}
            response = await self._inner.handle_async_request(request)
            if response.status_code == UNAUTHENTICATED and self._renew(call):
                await response.aclose()
                request.headers.update(await self._headers(call))
                response = await self._inner.handle_async_request(request)
            return await self._whole(request, response)
        except CallFailedError as error:
            return _broken(request, error)
        except BEFORE as error:
            words = f"The server cannot be reached ({type(error).__name__})."
            return _broken(request, CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words))
        except httpx2.HTTPError as error:
            words = f"The server was lost before it had answered ({type(error).__name__})."
            return _broken(request, CallFailedError(Known.UNKNOWN, TARGET_LOST, words))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _whole(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """An answer that is read whole here, unless it is a stream of events."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        failed = response.status_code >= FIRST_ERROR
        if not failed and kind != "application/json":
            return response
        bound = ERROR_BYTES_MAX if failed else self._bytes_max
        body = bytearray()
        try:
            async for chunk in cast("AsyncIterator[bytes]", response.stream):
                body += chunk
                if len(body) > bound:
                    break
        finally:
            await response.aclose()
        lost = response.status_code == NOT_FOUND and SESSION_HEADER in request.headers
        if lost or (failed and not _is_error(body)):
            raise _refusal(request, response, bytes(body[:bound]))
        if len(body) > bound:
            words = f"The server did it; its answer has over {bound} bytes."
            raise CallFailedError(Known.DONE, RESULT_TOO_LARGE, words)
        kept = [(name, one) for name, one in response.headers.multi_items() if name not in LENGTHS]
        return httpx2.Response(
            response.status_code, headers=kept, content=bytes(body), request=request
        )


LENGTHS: Final = ("content-length", "transfer-encoding")


def broken(data: Any) -> CallFailedError | None:
    """What `Guarded` said in a JSON-RPC error's data, if it was it."""
    if not isinstance(data, dict) or BROKEN not in data:
        return None
    said = data[BROKEN]
    return CallFailedError(
        Known(said["known"]),
        said["code"],
        said["message"],
        retry_after_s=said["retry_after_s"],
        details=said["details"],
    )


def _broken(request: httpx2.Request, error: CallFailedError) -> httpx2.Response:
    said = {
        "known": error.known,
        "code": error.code,
        "message": error.message,
        "retry_after_s": error.retry_after_s,
        "details": error.details,
    }
    problem = {"code": BROKEN_CODE, "message": error.message, "data": {BROKEN: said}}
    content = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": problem})
    headers = {"content-type": "application/json"}
    return httpx2.Response(503, headers=headers, content=content, request=request)


def _refusal(request: httpx2.Request, response: httpx2.Response, body: bytes) -> CallFailedError:
    answer = Answer(
        status=response.status_code, headers=response.headers, url=request.url, body=body
    )
    if response.status_code == NOT_FOUND and SESSION_HEADER in request.headers:
        words = "The server does not know the session any more."
        return CallFailedError(Known.NOT_DONE, SESSION_LOST, words)
    return judging.error(answer, judging.known(answer, {}))


def _is_error(body: bytes | bytearray) -> bool:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = said.get("error") if isinstance(said, dict) else None
    return isinstance(error, dict) and isinstance(error.get("code"), int)
