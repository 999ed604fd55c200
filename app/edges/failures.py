"""Errors on their way out: RFC 9457 problem details over HTTP."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from app import metrics
from app.edges.auth.dpop import ALGORITHMS, ProofFailedError
from app.edges.auth.tokens import LoginFailedError
from app.errors import (
    BadRequestError,
    BrokerError,
    ForbiddenError,
    NotAuthenticatedError,
    SlowBodyError,
    UnavailableError,
    UnsupportedEncodingError,
    problems_of,
)
from app.postgres.engine import AWAY, is_away, is_data_error, sqlstate_of

logger = logging.getLogger(__name__)

TYPE_BASE: Final = "urn:mcpbroker:problem:"


def members(error: BrokerError) -> dict[str, Any]:
    """The members of the error's problem details; it is counted as told."""
    metrics.REFUSED.labels(error.code).inc()
    return {
        "type": TYPE_BASE + error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        **error.fields,
    }


def problem(error: BrokerError, *, metadata_url: str) -> Response:
    """The error as `application/problem+json`, with the headers that its status asks for."""
    body = members(error)
    headers: dict[str, str] = {}
    if isinstance(error, UnsupportedEncodingError):
        headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    if isinstance(error, SlowBodyError):
        headers["Connection"] = "close"
    if isinstance(error, NotAuthenticatedError):
        headers |= challenge(error, metadata_url=metadata_url)
    if isinstance(error, ForbiddenError) and "scope" in error.fields:
        headers["WWW-Authenticate"] = (
            f'Bearer error="insufficient_scope", scope="{error.fields["scope"]}",'
            f' resource_metadata="{metadata_url}"'
        )
    if "retry_after_s" in error.fields:
        headers["Retry-After"] = str(error.fields["retry_after_s"])
    elif isinstance(error, UnavailableError):
        headers["Retry-After"] = "1"
    return Response(
        orjson.dumps(body, default=str),
        status_code=error.status,
        media_type="application/problem+json",
        headers=headers,
    )


def challenge(error: NotAuthenticatedError, *, metadata_url: str) -> dict[str, str]:
    """What a 401 says of how to log in (RFC 6750, 3; RFC 9449, 7.1; RFC 9728, 5.1)."""
    told = f'scope="tools", resource_metadata="{metadata_url}"'
    # Where no credential was shown, none is called bad (RFC 6750, 3.1).
    if not isinstance(error, LoginFailedError):
        return {"WWW-Authenticate": f"Bearer {told}"}
    told = f'error="{error.code_of_scheme}", error_description="{error.detail}", {told}'
    if error.scheme == "DPoP":
        told += f', algs="{" ".join(ALGORITHMS)}"'
    headers = {"WWW-Authenticate": f"{error.scheme} {told}"}
    if isinstance(error, ProofFailedError) and error.nonce:
        headers |= {"DPoP-Nonce": error.nonce, "Cache-Control": "no-store"}
    return headers


def framework_problem(error: HTTPException) -> Response:
    """What the framework refuses, such as an unknown path, as a problem."""
    body: Mapping[str, Any] = {
        "type": "about:blank",
        "title": str(error.detail),
        "status": error.status_code,
        "code": f"http_{error.status_code}",
    }
    return Response(
        orjson.dumps(body),
        status_code=error.status_code,
        media_type="application/problem+json",
        headers=error.headers,
    )


def placed(error: ValidationError, *place: str) -> list[Any]:
    """A validation's problems, with where in the request they are."""
    return [{**one, "loc": (*place, *one["loc"])} for one in error.errors()]


def invalid(error: RequestValidationError | ValidationError) -> BadRequestError:
    """What pydantic found, in words."""
    found = [
        ("/" + "/".join(str(part) for part in one["loc"]), one["msg"]) for one in error.errors()
    ]
    problems = problems_of(found[:10] or [("/", "not of the contract's shape")])
    first = problems[0]
    return BadRequestError(f"{first['at']}: {first['problem']}", problems=problems)


def install(
    app: Starlette, *, metadata_url: str, on_refused: Callable[[HTTPConnection, BrokerError], None]
) -> None:
    """Give every error its problem details; `on_refused` sees each deliberate one."""

    async def deliberate(request: Request, error: Exception) -> Response:
        assert isinstance(error, BrokerError)
        on_refused(request, error)
        return problem(error, metadata_url=metadata_url)

    async def unreadable(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError | ValidationError)
        return problem(invalid(error), metadata_url=metadata_url)

    async def broken(request: Request, error: Exception) -> Response:
        return problem(translated(error, path=request.url.path), metadata_url=metadata_url)

    async def standard(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return framework_problem(error)

    app.add_exception_handler(BrokerError, deliberate)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(ValidationError, unreadable)
    app.add_exception_handler(HTTPException, standard)
    for kind in (*AWAY, Exception):
        app.add_exception_handler(kind, broken)


def translated(error: Exception, *, path: str) -> BrokerError:
    """What a caller learns of an error that nobody meant; the log has the rest."""
    if isinstance(error, AWAY) and is_away(error):
        return UnavailableError(unavailable(error))
    if is_data_error(error):
        logger.warning("the database refused a value", extra={"sqlstate": sqlstate_of(error)})
        return BadRequestError("A value in the request is one that cannot be stored.")
    logger.error("request failed", exc_info=error, extra={"path": path})
    return BrokerError("It is logged; tell an operator.")


def unavailable(error: Exception) -> str:
    """What to tell a caller whose request met a database that is away."""
    return (
        "The database is away or busy. Try again; with the same idempotency key a call that was"
        f" accepted is found again. ({type(error).__name__})"
    )
