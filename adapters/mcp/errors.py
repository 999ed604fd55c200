"""A JSON-RPC error as what is known of the effect."""

from typing import Final

import mcp_types as types
from mcp.shared.exceptions import MCPError

from adapters.contract import (
    TARGET_FAILED,
    TARGET_LOST,
    TARGET_REFUSED,
    CallFailedError,
    Known,
)
from adapters.mcp import wire

LOST_AT_SDK: Final = (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT)
HEADERS_DIFFER: Final = "headers_differ"
AGAIN: Final = (wire.SESSION_LOST, HEADERS_DIFFER)
"""Nothing was done, and the next try knows better."""


def failed(error: MCPError) -> CallFailedError:
    """A JSON-RPC error, a server's or the SDK's own, as what is known of the effect."""
    said = error.error
    if (found := wire.broken(said.data)) is not None:
        return found
    details = {"mcp": {"code": said.code, "message": said.message, "data": said.data}}
    if said.code in LOST_AT_SDK:
        words = f"The server was lost before it had answered: {said.message}."
        return CallFailedError(Known.UNKNOWN, TARGET_LOST, words)
    if said.code == types.HEADER_MISMATCH:
        return CallFailedError(Known.NOT_DONE, HEADERS_DIFFER, said.message, details=details)
    if said.code == types.INTERNAL_ERROR:
        words = f"The server failed: {said.message}"
        return CallFailedError(Known.UNKNOWN, TARGET_FAILED, words, details=details)
    words = f"The server refused the call: {said.message}"
    return CallFailedError(Known.REFUSED, TARGET_REFUSED, words, details=details)
