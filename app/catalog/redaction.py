"""What a tool's schema marks `x-sensitive` stays out of the audit trail, logs and problem details.

It fails closed: where a schema marks anything, a value at a place that it does not describe is not
written either. Keywords are those of JSON Schema 2020-12 that apply a subschema to a place.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, quote_plus

from app.catalog.patterns import matches

REDACTED: Final = "[redacted]"
MARK: Final = "x-sensitive"
PERSONAL: Final = "x-personal"
"""A value that may be audited, as an erasure reaches that, and is in no key as it is."""

PLACE: Final = re.compile(r"[0-9]{1,9}")

SECRET_MIN: Final = 4
"""Characters; a shorter value would be found in ordinary words."""
BASE64_MIN: Final = 8
"""Characters of a text's Base64 that are looked for."""
URL_SAFE: Final = str.maketrans("+/", "-_")

SAME_PLACE: Final = ("allOf", "anyOf", "oneOf")
SAME_PLACE_ONE: Final = ("if", "then", "else", "not")

CONTAINERS: Final = (
    *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"),
    *("items", "prefixItems", "additionalItems", "contains", "unevaluatedItems"),
)

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """A call's secrets, for what may not quote them."""

    texts: frozenset[str] = frozenset()
    """Those that are looked for wherever they stand."""
    short: frozenset[tuple[str, str]] = frozenset()
    """By their argument's name: those that are looked for as a whole, or behind that name."""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.texts or self.short)

    def is_short(self, said: str) -> bool:
        """Whether a text is one of the short ones, and nothing else."""
        return any(text == said for _, text in self.short)


NO_SECRETS: Final = Secrets()


def marks(schema: Any, *names: str) -> bool:
    """Whether a schema marks anything, anywhere; `x-sensitive` where no mark is named."""
    if isinstance(schema, Mapping):
        marked = any(schema.get(name) for name in names or (MARK,))
        return marked or any(marks(one, *names) for one in schema.values())
    return isinstance(schema, list) and any(marks(one, *names) for one in schema)


def hides(schema: Schema, path: Iterable[str], *names: str) -> bool:
    """Whether the value at a path may hold what is `x-sensitive`, or has another of these marks.

    There, above or below it. It fails closed: where anything is so marked, what the schema does not
    describe counts as marked.
    """
    names = (*names, MARK)
    return marks(schema, *names) and reaches(schema, path, *names)


def reaches(schema: Schema, path: Iterable[str], *names: str) -> bool:
    """As `hides`, by these marks alone, of a schema that has one of them somewhere."""
    here = list(_applied([schema], schema))
    for part in path:
        if not here or any(one.get(name) for one in here for name in names):
            return True
        inner = _of_key(part, here) + (_of_item(int(part), here) if PLACE.fullmatch(part) else [])
        here = list(_applied(inner, schema))
    if not here or any(one.get(name) for one in here for name in names):
        return True
    # What is in the value may be marked too, or by a schema that is named there.
    inside = [one[word] for one in here for word in CONTAINERS if word in one]
    return marks(inside, *names, "$ref", "$dynamicRef")


def redact(value: Any, schema: Schema | None) -> Any:
    """A copy of a value without what its schema marks."""
    if schema is None or not marks(schema):
        return value
    return _redact(value, [schema], schema)


def secrets(value: Any, schema: Schema | None) -> Secrets:
    """What stands at the places that a schema marks; with no schema at hand, everywhere."""
    if schema is not None and not marks(schema):
        return NO_SECRETS
    found = set(_removed(value, REDACTED if schema is None else redact(value, schema)))
    return Secrets(
        texts=frozenset(text for _, text in found if len(text) >= SECRET_MIN),
        short=frozenset(one for one in found if 0 < len(one[1]) < SECRET_MIN),
    )


def mask(value: Any, hidden: Secrets) -> Any:
    """A copy of a value whose texts quote none of the secrets, keys included."""
    if not hidden:
        return value
    forms = {form for text in hidden.texts for form in quoted(text)}
    return _mask(value, sorted(forms, key=len, reverse=True), hidden)


def quoted(text: str) -> set[str]:
    """A text as programs print it: as it is, and escaped for JSON, Python, URLs, HTML and shells.

    Also its Base64, where it stands in a longer text, too: as behind a user's name.
    """
    quotes = quote(text, safe=""), quote(text), quote_plus(text)
    forms = {text, *quotes, *(re.sub("%..", lambda one: one[0].lower(), one) for one in quotes)}
    for said in (text, text.replace("\n", "\r\n")):
        forms |= {json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1]}
        forms |= {json.dumps(said)[1:-1].replace("/", "\\/"), repr(said)[1:-1], ascii(said)[1:-1]}
    forms |= {repr(text.encode())[2:-1], html.escape(text), html.escape(text, quote=False)}
    forms |= {text.replace("'", "'\"'\"'"), text.replace("'", "'\\''"), text.replace("'", "''")}
    raw = text.encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        inner = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        if len(inner) >= BASE64_MIN:
            forms |= {inner, inner.translate(URL_SAFE)}
    return {form for form in forms if len(form) >= SECRET_MIN}


def _mask(value: Any, forms: Sequence[str], hidden: Secrets) -> Any:
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, REDACTED)
        return _mask_short(value, hidden)
    if isinstance(value, Mapping):
        return {
            _mask(key, forms, hidden): _mask(item, forms, hidden) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask(item, forms, hidden) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    said = str(value)
    return REDACTED if said in hidden.texts or hidden.is_short(said) else value


def _mask_short(said: str, hidden: Secrets) -> str:
    """Mask what is a short secret as a whole, or is written behind its argument's name."""
    if hidden.is_short(said):
        return REDACTED
    for name, text in hidden.short:
        if name and name in said:
            written = rf"(?<!\w)({re.escape(name)}[\"']?\s{{0,9}}[:=]?\s{{0,9}}[\"']?)"
            said = re.sub(rf"{written}{re.escape(text)}(?!\w)", rf"\1{REDACTED}", said)
    return said


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


def _removed(value: Any, kept: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The texts, and numbers as texts, of a value that its redacted copy has not; by their name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _removed(item, kept if kept == REDACTED else kept[key], key)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _removed(item, kept if kept == REDACTED else kept[n], name)
    elif kept == REDACTED and value is not None and not isinstance(value, bool):
        yield name, str(value)
