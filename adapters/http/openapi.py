"""Operations of an OpenAPI document as tools: a mapping, schemas, and a digest of what they were.

Nothing here is needed for a call: a mapping stands alone, so that a document that changes later
changes no call.
"""

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from adapters.http.parameters import STYLES
from adapters.http.pointers import Document, OpenApiError
from adapters.http.requests import FORM, JSON, MULTIPART
from adapters.http.schemas import Schemas, is_binary

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "query")
OWN_HEADERS: Final = ("accept", "authorization", "content-type")
"""OpenAPI says that parameters of these names are ignored."""
BODY: Final = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation, as a catalog's entry is made of it."""

    name: str
    """Its `operationId`, or method and path."""
    method: str
    title: str | None
    description: str | None
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    mapping: Mapping[str, Any]
    deprecated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """An operation that no tool can be made of, and why."""

    name: str
    reason: str


def operations(value: Any) -> Iterator[Operation | Unusable]:
    """All of a document, in its order.

    Raises:
        OpenApiError: it is no OpenAPI 3 document.
    """
    document = Document(value)
    with of_form("the document"):
        items = {path: document.resolved(one) for path, one in _paths(document).items()}
    for path, item in items.items():
        if not isinstance(item, Mapping):
            yield Unusable(name=str(path), reason="the path is no object")
            continue
        for method in METHODS:
            if method not in item:
                continue
            name = f"{method} {path}"
            try:
                with of_form("it"):
                    given = item[method]
                    name = str(given.get("operationId") or name)
                    made = _operation(document, name, method, path, item, given)
            except OpenApiError as error:
                yield Unusable(name=name, reason=str(error))
            else:
                yield made


def _paths(document: Document) -> Mapping[str, Any]:
    return document.value.get("paths") or {}


@contextmanager
def of_form(what: str) -> Generator[None]:
    """Read what somebody else wrote as OpenAPI has it.

    Raises:
        OpenApiError: it has other types than that, wherever one was met.
    """
    try:
        yield
    except OpenApiError:
        raise
    except (AttributeError, TypeError, LookupError, ValueError, RecursionError) as error:
        raise OpenApiError(f"{what} is not as OpenAPI has it: {str(error)[:200]}") from error


def _operation(
    document: Document, name: str, method: str, path: str, item: Any, given: Any
) -> Operation:
    schemas = Schemas(document)
    mapping: dict[str, Any] = {"method": method.upper(), "path": path}
    properties: dict[str, Any] = {}
    required: list[str] = []
    listed: list[dict[str, Any]] = []
    for one in _parameters(document, item, given):
        arg = one["name"] if one["name"] not in properties else f"{one['in']}_{one['name']}"
        listed.append(_parameter(one, arg))
        properties[arg] = _described(_schema_of(one), one)
        if one.get("required"):
            required.append(arg)
    if listed:
        mapping["parameters"] = listed
    body = document.resolved(given.get("requestBody"))
    if body:
        arg = BODY if BODY not in properties else f"request_{BODY}"
        kind, media = _media(document, body)
        mapping |= {"body": f"{{{arg}}}", "content_type": kind}
        schema = media.get("schema", {} if kind == JSON else {"type": "string", "format": "binary"})
        if encoding := _encoding(document, kind, schema, media):
            mapping["encoding"] = encoding
        properties[arg] = _described(schema, body)
        if body.get("required"):
            required.append(arg)
            mapping["body_required"] = True
    asked: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    if required:
        asked["required"] = required
    input_schema, output_schema = schemas.whole(asked), _output(document, schemas, given)
    told = [mapping, input_schema, output_schema]
    mapping["digest"] = _digest(told)
    return Operation(
        name=name,
        method=method.upper(),
        title=given.get("summary"),
        description=given.get("description") or given.get("summary"),
        input_schema=input_schema,
        output_schema=output_schema,
        mapping=mapping,
        deprecated=bool(given.get("deprecated")),
    )


def _parameters(document: Document, item: Any, given: Any) -> Iterator[Mapping[str, Any]]:
    """The path's and the operation's, which goes first where both have one."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for one in [*item.get("parameters", []), *given.get("parameters", [])]:
        whole = document.resolved(one)
        found[whole["in"], whole["name"]] = whole
    for (place, name), one in found.items():
        if place not in STYLES:
            raise OpenApiError(f"parameter {name} is in {place}")
        if place != "header" or name.lower() not in OWN_HEADERS:
            yield one


def _parameter(one: Mapping[str, Any], arg: str) -> dict[str, Any]:
    made = {"name": one["name"], "in": one["in"], "arg": arg}
    made |= {name: one[name] for name in ("style", "explode") if name in one}
    if one.get("allowReserved"):
        made["allow_reserved"] = True
    if "content" in one:
        made["json"] = True
    return made


def _schema_of(one: Mapping[str, Any]) -> Any:
    if "content" in one:
        return next(iter(one["content"].values()), {}).get("schema", {})
    return one.get("schema", {})


def _described(schema: Any, one: Mapping[str, Any]) -> Any:
    if not one.get("description") or not isinstance(schema, Mapping) or "description" in schema:
        return schema
    return {**schema, "description": one["description"]}


def _media(document: Document, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The body's media type that says most of its arguments."""
    content: Mapping[str, Any] = body.get("content", {})
    by_kind = {kind.partition(";")[0].strip().lower(): kind for kind in content}
    json_like = [one for one in by_kind if one.endswith("+json")]
    for wanted in (JSON, *json_like, MULTIPART, FORM, *by_kind):
        if wanted in by_kind:
            kind = by_kind[wanted]
            plain = JSON if wanted == "*/*" else kind
            return plain, document.resolved(content[kind])
    raise OpenApiError("the request's body has no content")


def _encoding(
    document: Document, kind: str, schema: Any, media: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    if kind.partition(";")[0].strip().lower() not in (MULTIPART, FORM):
        return {}
    whole = document.resolved(schema)
    made: dict[str, dict[str, Any]] = {}
    for name, one in whole.get("properties", {}).items():
        given = media.get("encoding", {}).get(name, {})
        how = {key: given[key] for key in ("style", "explode") if key in given}
        if "contentType" in given and "," not in given["contentType"]:
            how["content_type"] = given["contentType"]
        inner = document.resolved(one)
        items = document.resolved(inner.get("items")) if isinstance(inner, Mapping) else None
        if is_binary(inner) or is_binary(items):
            how["file"] = True
        if how:
            made[name] = how
    return made


def _output(document: Document, schemas: Schemas, given: Any) -> Mapping[str, Any] | None:
    """Of the first success that has a body in JSON; a tool's output schema is an object's."""
    for status, response in given.get("responses", {}).items():
        if not str(status).startswith("2"):
            continue
        for kind, media in document.resolved(response).get("content", {}).items():
            plain = kind.partition(";")[0].strip().lower()
            if plain != JSON and not plain.endswith("+json"):
                continue
            schema = document.resolved(media).get("schema")
            if schema is not None and document.resolved(schema).get("type") == "object":
                return {"type": "object"} | schemas.whole(schema)
            return None
    return None


def _digest(told: Any) -> str:
    written = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    return "sha256:" + hashlib.sha256(written).hexdigest()
