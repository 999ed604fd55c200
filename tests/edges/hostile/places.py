"""The places in a JSON body: those of its schema, those of a value, and what stands there."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Pointer = tuple[str | int, ...]
Schema = Mapping[str, Any]

MARK = "@here@"


def resolved(schema: Schema, defs: Schema) -> Iterator[Schema]:
    """The schemas that one may be."""
    if "$ref" in schema:
        yield from resolved(defs[schema["$ref"].rpartition("/")[2]], defs)
        return
    either = [one for word in ("anyOf", "oneOf", "allOf") for one in schema.get(word, ())]
    for one in either:
        yield from resolved(one, defs)
    if not either:
        yield schema


def of_schema(schema: Schema, defs: Schema) -> Iterator[Pointer]:
    """Every place in a value of this schema, its whole the first."""
    yield ()
    for one in resolved(schema, defs):
        for name, inner in one.get("properties", {}).items():
            yield from ((name, *rest) for rest in of_schema(inner, defs))
        if "items" in one:
            yield from ((0, *rest) for rest in of_schema(one["items"], defs))


def of_value(value: Any) -> Iterator[Pointer]:
    """Every place in a value, its whole the first."""
    yield ()
    for name, inner in pairs(value):
        yield from ((name, *rest) for rest in of_value(inner))


def pairs(value: Any) -> Iterator[tuple[str | int, Any]]:
    """The names, or numbers, and values of what has some."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def reached(body: Any, place: Pointer) -> bool:
    """Whether the body has what the place is in."""
    inner = body
    for step in place[:-1]:
        found = dict(pairs(inner))
        if step not in found:
            return False
        inner = found[step]
    return not place or isinstance(inner, dict if isinstance(place[-1], str) else list)


def at(body: Any, place: Pointer) -> Any:
    """What stands at a place; None where nothing does."""
    for step in place:
        body = dict(pairs(body)).get(step)
    return body


def spliced(body: Any, place: Pointer, written: bytes) -> bytes:
    """The body's JSON with this text at a place."""
    if not place:
        return written
    made = json.loads(json.dumps(body))
    inner: Any = at(made, place[:-1])
    last: Any = place[-1]
    if inner == [] and last == 0:
        inner.append(None)
    inner[last] = MARK
    return json.dumps(made).encode().replace(json.dumps(MARK).encode(), written, 1)
