"""The OpenAPI document as the app really answers: every status that a route can give, and no other.

FastAPI knows the requests; what it says of answers (200, and a 422 that we never send) is replaced.
"""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable, for machines."},
    },
    "required": ["type", "title", "status", "code"],
}

MEANINGS: Final = {
    200: "Done, or found.",
    201: "Made.",
    202: "Accepted, or asked for: it goes on.",
    400: "The request is malformed.",
    401: "There is no valid token.",
    403: "The token does not allow this.",
    404: "There is no such thing of the caller's.",
    409: "It is not in a state for this, or another was first.",
    410: "It is not wanted any more.",
    413: "The body is too large.",
    422: "The arguments do not fit, the key belongs to another request, or it cannot be kept.",
    423: "An operator holds it.",
    429: "The queue is full.",
    503: "The database is away or busy.",
}

ALWAYS: Final = (400, 401, 403, 404, 413, 503)
"""Of every route behind a token. 404 is also what a path that is no UUID gets by its shape."""

MORE: Final[dict[tuple[str, str], tuple[int, ...]]] = {
    ("post", "/mcp/tools/call"): (202, 409, 422, 423, 429),
    ("post", "/commands/{command_id}/approve"): (409,),
    ("post", "/commands/{command_id}/cancel"): (202, 409),
    ("post", "/commands/{command_id}/deny"): (409,),
    ("post", "/sagas/definitions"): (201, 422),
    ("post", "/sagas/dry-run"): (422,),
    ("post", "/sagas"): (202, 409, 422, 423, 429),
    ("post", "/sagas/{saga_id}/commit"): (409,),
    ("post", "/sagas/{saga_id}/cancel"): (202, 409),
    ("post", "/operator/holds"): (201, 422),
    ("post", "/operator/webhooks"): (201, 422),
    ("post", "/operator/webhooks/{webhook_id}/test"): (202,),
    ("post", "/results/batch"): (422,),
    ("post", "/results/{correlation_id}/claim"): (409, 410, 422),
    ("post", "/results/{correlation_id}/progress"): (409, 422),
    ("post", "/results/{correlation_id}/reject"): (409, 422),
    ("post", "/results/{correlation_id}/run"): (422,),
    ("post", "/results/{correlation_id}"): (409, 422),
}
"""Beside 200 and what is ALWAYS; an operator's POST adds 409 to any route."""

PUBLIC: Final = {"/healthz": (200,), "/readyz": (200, 503)}
STREAMS: Final = frozenset({"/commands/{command_id}/events"})
ANSWERED_PLAIN: Final = {("post", "/results/{correlation_id}/claim"): (409, 410)}
"""Statuses that are an ordinary answer there, not a problem."""


def statuses(method: str, path: str) -> tuple[int, ...]:
    """Every status that a route can answer with."""
    if path in PUBLIC:
        return PUBLIC[path]
    more = MORE.get((method, path), ())
    if method == "post" and path.startswith("/operator/"):
        more = (*more, 409)
    return tuple(sorted({200, *ALWAYS, *more}))


def install(app: FastAPI) -> None:
    """Serve the corrected document at /openapi.json."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    operation["responses"] = responses(method, path)
                    if path not in PUBLIC:
                        operation["security"] = [{"bearer": []}]
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["Problem"] = PROBLEM
            made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # pyright: ignore[reportAttributeAccessIssue] FastAPI's documented way


def responses(method: str, path: str) -> dict[str, Any]:
    """The `responses` object of an operation."""
    plain = (200, 201, 202, *ANSWERED_PLAIN.get((method, path), ()), *PUBLIC.get(path, ()))
    kind = "text/event-stream" if path in STREAMS else "application/json"
    found: dict[str, Any] = {}
    for status in statuses(method, path):
        content: dict[str, Any] = {kind: {"schema": {}}}
        if status not in plain:
            reference = {"$ref": "#/components/schemas/Problem"}
            content = {"application/problem+json": {"schema": reference}}
        found[str(status)] = {"description": MEANINGS[status], "content": content}
    return found
