"""What a call's secrets look like in texts that a target sends back, and texts without them."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASKED: Final = "[redacted]"
SECRET_MIN: Final = 4
"""Characters; a shorter value would be found in ordinary words."""


def forms(secret: str) -> frozenset[str]:
    """A secret as it is, and as JSON, Python's `repr`, URLs and base64 quote it."""
    if len(secret) < SECRET_MIN:
        return frozenset()
    raw = secret.encode(errors="surrogatepass")
    found = {
        secret,
        secret.strip(),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
    found |= {_lower_escapes(one) for one in found}
    found |= {json.dumps(one)[1:-1] for one in found}
    return frozenset(one for one in found if len(one) >= SECRET_MIN)


def mask(value: Any, hidden: Iterable[str]) -> Any:
    """A copy of a JSON value that quotes none of these texts, in its names neither."""
    longest_first = sorted(hidden, key=len, reverse=True)
    return _mask(value, longest_first) if longest_first else value


def _mask(value: Any, hidden: list[str]) -> Any:
    match value:
        case str():
            for one in hidden:
                value = value.replace(one, MASKED)
            return value
        case Mapping():
            return {_mask(name, hidden): _mask(one, hidden) for name, one in value.items()}
        case list() | tuple():
            return [_mask(one, hidden) for one in value]
        case bool():
            return value
        case int() | float():
            return MASKED if str(value) in hidden else value
        case _:
            return value


def _lower_escapes(text: str) -> str:
    """`%2F` as `%2f`."""
    parts = text.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])
