"""What a gRPC status says of the work."""

import re
from collections.abc import Mapping
from typing import Any, Final

import grpc

from adapters.contract import (
    DEADLINE_EXCEEDED,
    RESULT_TOO_LARGE,
    TARGET_BUSY,
    TARGET_FAILED,
    TARGET_LOST,
    TARGET_REFUSED,
    TARGET_UNAVAILABLE,
    CallFailedError,
    Known,
)

Code = grpc.StatusCode
KNOWN: Final[Mapping[Any, Known]] = {
    Code.RESOURCE_EXHAUSTED: Known.NOT_DONE,
    Code.UNAVAILABLE: Known.UNKNOWN,
    Code.ABORTED: Known.UNKNOWN,
    Code.CANCELLED: Known.UNKNOWN,
    Code.DEADLINE_EXCEEDED: Known.UNKNOWN,
    Code.UNKNOWN: Known.UNKNOWN,
    Code.INTERNAL: Known.UNKNOWN,
    Code.DATA_LOSS: Known.UNKNOWN,
}
"""All others are refusals. UNAVAILABLE may be a connection that was cut after the request."""
CODES: Final[Mapping[Any, str]] = {
    Code.RESOURCE_EXHAUSTED: TARGET_BUSY,
    Code.UNAVAILABLE: TARGET_LOST,
    Code.DEADLINE_EXCEEDED: DEADLINE_EXCEEDED,
}
NOT_CONNECTED: Final = re.compile(
    r"failed to connect|connection refused|DNS resolution failed|no connection established"
    r"|handshake (failed|read failed)|Name resolution failure",
    re.IGNORECASE,
)
TOO_LARGE: Final = re.compile(r"received message larger|message length exceeded", re.IGNORECASE)
PUSHBACK: Final = "grpc-retry-pushback-ms"
MILLISECONDS: Final = re.compile(r"[0-9]{1,9}")


def error(found: grpc.aio.AioRpcError, statuses: Mapping[str, str]) -> CallFailedError:
    """A call that ended with a status; the mapping's `statuses` go first."""
    code, words = found.code(), found.details() or ""
    if code is Code.RESOURCE_EXHAUSTED and TOO_LARGE.search(words):
        return CallFailedError(Known.DONE, RESULT_TOO_LARGE, f"The service did it; {words}.")
    if code is Code.UNAVAILABLE and NOT_CONNECTED.search(words):
        return CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, f"No connection: {words}")
    known = KNOWN.get(code, Known.REFUSED)
    if (named := statuses.get(code.name)) is not None:
        known = Known(named)
    default = TARGET_REFUSED if known is Known.REFUSED else TARGET_FAILED
    return CallFailedError(
        known,
        CODES.get(code, default),
        f"The service answered {code.name}: {words}",
        retry_after_s=_pushback_s(found),
        details={"status": code.name, "details": words},
    )


def _pushback_s(found: grpc.aio.AioRpcError) -> float | None:
    for name, value in found.trailing_metadata() or ():
        if name == PUSHBACK and MILLISECONDS.fullmatch(str(value)):
            return int(value) / 1000
    return None
