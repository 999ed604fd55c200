"""What a tool's schema marks `x-sensitive` stays out of the audit trail, logs and problem details.

It fails closed: where a schema marks anything, a value at a place that it does not describe is not
written either. Keywords are those of JSON Schema 2020-12 that apply a subschema to a place.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.catalog.patterns import matches

REDACTED: Final = "[redacted]"
MARK: Final = "x-sensitive"

PLACE: Final = re.compile(r"[0-9]{1,9}")

SECRET_MIN: Final = 4
"""Characters; a shorter value would be found in ordinary words."""

SAME_PLACE: Final = ("allOf", "anyOf", "oneOf")
SAME_PLACE_ONE: Final = ("if", "then", "else", "not")

Schema = Mapping[str, Any]


def marks(schema: Any) -> bool:
    """Whether a schema marks anything, anywhere."""
    if isinstance(schema, Mapping):
        return bool(schema.get(MARK)) or any(marks(one) for one in schema.values())
    return isinstance(schema, list) and any(marks(one) for one in schema)


def redact(value: Any, schema: Schema | None) -> Any:
    """A copy of a value without what its schema marks."""
    if schema is None or not marks(schema):
        return value
    return _redact(value, [schema], schema)


def secrets(value: Any, schema: Schema | None) -> frozenset[str]:
    """The texts at the places that a schema marks; with no schema at hand, all of them."""
    if schema is not None and not marks(schema):
        return frozenset()
    found = _removed(value, REDACTED if schema is None else redact(value, schema))
    return frozenset(text for text in found if len(text) >= SECRET_MIN)


def mask(value: Any, hidden: frozenset[str]) -> Any:
    """A copy of a value whose texts quote none of the secrets, keys included."""
    if not hidden:
        return value
    if isinstance(value, str):
        for secret in sorted(hidden, key=len, reverse=True):
            value = value.replace(secret, REDACTED)
        return value
    if isinstance(value, Mapping):
        return {mask(key, hidden): mask(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, hidden) for item in value]
    if not isinstance(value, bool) and isinstance(value, int | float) and str(value) in hidden:
        return REDACTED
    return value


def _redact(value: Any, schemas: list[Any], root: Schema) -> Any:
    here = list(_applied(schemas, root))
    if not here or any(one.get(MARK) for one in here):
        return REDACTED
    if isinstance(value, Mapping):
        return {key: _redact(item, _of_key(key, here), root) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, _of_item(n, here), root) for n, item in enumerate(value)]
    return value


def _applied(schemas: list[Any], root: Schema) -> Iterator[Schema]:
    """Every schema that speaks of the same place; what cannot be resolved counts as marked."""
    waiting, seen = list(schemas), set[int]()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, Mapping) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [_resolved(one[name], root) for name in ("$ref", "$dynamicRef") if name in one]
        for name in SAME_PLACE:
            waiting += one.get(name, [])
        waiting += [one[name] for name in SAME_PLACE_ONE if name in one]
        waiting += one.get("dependentSchemas", {}).values()


def _resolved(ref: Any, root: Schema) -> Schema:
    found: Any = root
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return {MARK: True}
    for part in ref.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~").replace("%25", "%")
        if isinstance(found, list) and PLACE.fullmatch(name) and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return {MARK: True}
    return found if isinstance(found, Mapping) else {MARK: True}


def _of_key(key: str, schemas: list[Schema]) -> list[Any]:
    found: list[Any] = []
    for one in schemas:
        named = [one["properties"][key]] if key in one.get("properties", {}) else []
        patterns = one.get("patternProperties", {})
        for pattern, sub in patterns.items():
            found_in = matches(pattern, key)
            if found_in is None:  # nobody can say: it fails closed
                named.append({MARK: True})
            elif found_in:
                named.append(sub)
        rest = [one.get("additionalProperties")] if not named else []
        found += [*named, *rest, one.get("unevaluatedProperties")]
    return [one if one is not True else {} for one in found if one not in (None, False)]


def _of_item(number: int, schemas: list[Schema]) -> list[Any]:
    found: list[Any] = []
    for one in schemas:
        items = one.get("items")
        prefix = one.get("prefixItems", items if isinstance(items, list) else [])
        found += prefix[number : number + 1]
        if number >= len(prefix):
            found += [items if not isinstance(items, list) else one.get("additionalItems")]
        found += [one.get("contains"), one.get("unevaluatedItems")]
    return [one if one is not True else {} for one in found if one not in (None, False)]


def _removed(value: Any, kept: Any) -> Iterator[str]:
    """The texts, and numbers as texts, of a value that its redacted copy has not."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _removed(item, kept if kept == REDACTED else kept[key])
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _removed(item, kept if kept == REDACTED else kept[n])
    elif kept == REDACTED and value is not None and not isinstance(value, bool):
        yield str(value)
