"""The request that a tool's mapping makes of a call's arguments; nothing is sent here."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import orjson

from adapters import templates
from adapters.contract import (
    AdapterCall,
    invalid_arguments,
)
from adapters.http import parameters
from adapters.templates import as_text

HEADER: Final = re.compile(r"^[\t\x20-\x7e]*$")
DOTS: Final = re.compile(r"(^|[/\\])\.{1,2}([/\\]|$)")
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
SAFE: Final = ("GET", "HEAD", "OPTIONS", "TRACE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request, but for what is the target's: address, credential, connection."""

    method: str
    path: str
    """Quoted, with its query."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None
    files: list[tuple[str, tuple[str | None, bytes, str]]] | None = None


def prepare(call: AdapterCall) -> Prepared:
    """The request of a call.

    Raises:
        CallFailedError: the call lacks an argument, or has one that no request can carry.
    """
    try:
        return _prepared(call)
    except templates.MissingError as error:
        raise templates.missing(error) from None
    except UnicodeEncodeError:
        raise invalid_arguments("An argument holds half a surrogate pair.") from None


def _prepared(call: AdapterCall) -> Prepared:
    mapping, args = call.mapping, call.args
    given = [
        (one, value)
        for one in mapping.get("parameters", ())
        if (value := args.get(one.get("arg", one["name"]))) is not None
    ]
    path = _path(
        mapping["path"], args, [(one, value) for one, value in given if one["in"] == "path"]
    )
    query = [
        *_query(mapping.get("query", {}), args),
        *(pair for one, value in given if one["in"] == "query"
          for pair in parameters.in_query(one, value)),
    ]  # fmt: skip
    headers = dict(_headers(mapping.get("headers", {}), args))
    headers |= {
        one["name"].lower(): parameters.in_header(one, value)
        for one, value in given
        if one["in"] == "header"
    }
    cookies = [
        "=".join(pair)
        for one, value in given
        if one["in"] == "cookie"
        for pair in parameters.in_query(one, value)
    ]
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    for name, value in headers.items():
        if not HEADER.match(value):
            raise invalid_arguments(
                f"The header {name} cannot carry this argument: it is not plain ASCII."
            )
    headers, content, files = _body(mapping, args, headers)
    return Prepared(
        method=mapping["method"].upper(),
        path=path + ("?" + "&".join("=".join(pair) for pair in query) if query else ""),
        headers=headers,
        content=content,
        files=files,
    )


def _path(template: str, args: Mapping[str, Any], given: list[tuple[Any, Any]]) -> str:
    """The path; no argument can lead out of the place that the template has for it."""
    written = {one["name"]: parameters.in_path(one, value) for one, value in given}
    made: list[str] = []
    for named, part in templates.parts(template):
        if not named:
            made.append(part)
        elif part in written:
            made.append(written[part])
        else:
            made.append(quote(as_text(templates.look_up(args, part)), safe=""))
    path = "".join(made)
    values = [as_text(value) for _, value in given]
    values += [as_text(templates.look_up(args, part)) for named, part in templates.parts(template)
               if named and part not in written]  # fmt: skip
    if any(DOTS.search(one) for one in [path, *values]):
        raise invalid_arguments(
            "An argument would lead to another path: it has '.' or '..' as a part."
        )
    if any(one == "" for one in values):
        raise invalid_arguments("An argument of the path is empty.")
    return path


def _query(given: Mapping[str, Any], args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in templates.json_value(dict(given), args).items():
        yield from parameters.in_query({"name": name, "in": "query"}, value)


def _headers(given: Mapping[str, Any], args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in templates.json_value(dict(given), args).items():
        yield name.lower(), as_text(value)


def _body(
    mapping: Mapping[str, Any], args: Mapping[str, Any], headers: dict[str, str]
) -> tuple[dict[str, str], bytes | None, Any]:
    if "body" not in mapping:
        return headers, None, None
    try:
        value = templates.json_value(mapping["body"], args)
    except templates.MissingError:
        if mapping.get("body_required"):
            raise
        return headers, None, None
    kind: str = mapping.get("content_type", JSON)
    if _plain(kind) == MULTIPART:
        return headers, None, list(_parts(value, mapping.get("encoding", {})))
    content = _content(_plain(kind), value, mapping.get("encoding", {}))
    return {"content-type": kind} | headers, content, None


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _content(kind: str, value: Any, encoding: Mapping[str, Any]) -> bytes:
    if kind == JSON or kind.endswith("+json"):
        return orjson.dumps(value)
    if kind == FORM:
        return "&".join("=".join(pair) for pair in _form(value, encoding)).encode()
    if kind.startswith("text/") and isinstance(value, str):
        return value.encode()
    return _bytes(value)


def _form(value: Any, encoding: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        raise invalid_arguments("The body of a form must be an object.")
    for name, one in value.items():
        how = {"name": name, "in": "query", **encoding.get(name, {})}
        if isinstance(one, Mapping) and "style" not in how:
            how["json"] = True
        yield from parameters.in_query(how, one)


def _parts(
    value: Any, encoding: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str | None, bytes, str]]]:
    """Parts of multipart/form-data; a file is base64 in the arguments."""
    if not isinstance(value, Mapping):
        raise invalid_arguments("The body of a form must be an object.")
    for name, one in value.items():
        how = encoding.get(name, {})
        for item in one if isinstance(one, list) and not how.get("json") else [one]:
            if how.get("file"):
                kind = how.get("content_type", "application/octet-stream")
                yield name, (how.get("filename", name), _bytes(item), kind)
            elif isinstance(item, Mapping | list):
                yield name, (None, orjson.dumps(item), JSON)
            else:
                yield name, (None, as_text(item).encode(), how.get("content_type", "text/plain"))


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise invalid_arguments("Binary data must come as base64.") from None
