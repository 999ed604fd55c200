"""A request's header fields, as RFC 9110 has them and servers leave them."""

from collections.abc import Iterable
from typing import Final

from app.asserted import LABELS_HEADER

LISTS: Final = frozenset(
    {b"accept", b"prefer", b"content-encoding", b"access-control-request-headers"}
    | {LABELS_HEADER.encode()}
)
"""Those we read whose value is a list: it may be sent as several lines of the same name."""


def tidied(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """No white space around a value (RFC 9110, 5.5), and each list in one field (5.3)."""
    found: list[tuple[bytes, bytes]] = []
    places: dict[bytes, int] = {}
    for name, given in fields:
        value = given.strip(b" \t")
        if name in LISTS and name in places:
            found[places[name]] = (name, b", ".join((found[places[name]][1], value)))
            continue
        places[name] = len(found)
        found.append((name, value))
    return found
