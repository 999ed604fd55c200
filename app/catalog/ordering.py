"""The ordering key of a call that names none: what its policy says, of its arguments.

A key stands in Kafka and in other places that no erasure reaches, so one that may hold a person's
data is a hash. It has no salt, as equal values must wait for each other: who guesses the value can
tell that it was it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from app.json_values import integral

KEY_MAX: Final = 255
"""Characters of a key; a longer one ends in a digest of the whole."""


def derived(
    space: str,
    named: Sequence[str],
    args: Mapping[str, Any],
    schema: Mapping[str, Any],
    *,
    hidden: bool,
) -> str | None:
    """The key of these arguments within a space; None where the call gives none of them.

    Alike arguments have one key however they were written: an argument left out counts as its
    schema's default, `1.0` as 1, and an object in any order of its names. Of `hidden` values the
    key has the hash only.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    values = [_value(args.get(name), properties.get(name)) for name in named]
    if all(value is None for value in values):
        return None
    key_value = values[0] if len(values) == 1 else values
    text = f"{space}:{key_value if isinstance(key_value, str) else _text(key_value)}"
    return bounded(text, shown=f"{space}:" if hidden else text)


def bounded(text: str, *, shown: str) -> str:
    """A text as a key; where not all of it is shown, or has room, it ends in a digest of it."""
    if shown == text and len(text) <= KEY_MAX:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{shown[: KEY_MAX - 1 - len(digest)]}#{digest}"


def _value(given: Any, schema: Any) -> Any:
    if given is None and isinstance(schema, Mapping):
        return schema.get("default")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return given


def _text(value: Any) -> str:
    return orjson.dumps(integral(value, orjson.dumps(value)), option=orjson.OPT_SORT_KEYS).decode()
