"""What a target and a mapping of kind `http` may say."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import httpx2

from adapters import authorization, templates
from adapters.contract import Known
from adapters.http.parameters import STYLES
from adapters.targets import Target

METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}
MAPPING: Final = {
    *("method", "path", "query", "headers", "parameters"),
    *("body", "body_required", "content_type", "encoding"),
    *("statuses", "poll", "result", "digest"),
}
OPTIONS: Final = {"idempotency_header", "openapi"}
POLL: Final = {"every_s", "status", "done", "failed", "result", "cancel"}
PARAMETER: Final = {"name", "in", "arg", "style", "explode", "allow_reserved", "json"}
OWN_HEADERS: Final = {"host", "content-length", "transfer-encoding", "connection"}
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check(target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with them."""
    yield from address(target)
    yield from authorization.problems(target.credential)
    if unknown := sorted(set(target.options) - OPTIONS):
        yield f"options have no {', '.join(unknown)}; they have {', '.join(sorted(OPTIONS))}"
    if not _is_url(target.options.get("openapi", "https://x/")):
        yield "options.openapi is the http or https URL of the document that was reviewed"
    if not TOKEN.fullmatch(str(target.options.get("idempotency_header", "x"))):
        yield "options.idempotency_header is a header's name"
    if unknown := sorted(set(mapping) - MAPPING):
        yield f"adapter has no {', '.join(unknown)}; it has {', '.join(sorted(MAPPING))}"
    if str(mapping.get("method", "")).upper() not in METHODS:
        yield f"adapter.method is one of {', '.join(sorted(METHODS))}"
    yield from _path(mapping.get("path"))
    yield from _objects(mapping)
    yield from _parameters(mapping.get("parameters", []))
    for name in ("query", "headers", "body"):
        if (wrong := templates.problem(mapping.get(name))) is not None:
            yield wrong
    if mapping.get("result", "body") not in ("body", "full"):
        yield "adapter.result is body or full"


def address(target: Target) -> Iterator[str]:
    """What is wrong with a target's URL."""
    try:
        url = httpx2.URL(target.address)
    except (httpx2.InvalidURL, TypeError):
        yield "the target's address is no URL"
        return
    if url.scheme not in ("http", "https") or not url.host:
        yield "the target's address is an http or https URL"
    if url.query or url.fragment or url.userinfo:
        yield "the target's address has no query, fragment or user: credentials are references"


def _is_url(given: Any) -> bool:
    try:
        url = httpx2.URL(given)
    except (httpx2.InvalidURL, TypeError):
        return False
    return url.scheme in ("http", "https") and bool(url.host) and not url.userinfo


def _path(path: Any) -> Iterator[str]:
    if not isinstance(path, str) or not path.startswith("/"):
        yield "adapter.path begins with a slash"
        return
    if (wrong := templates.problem(path)) is not None:
        yield wrong
    if "?" in path or "#" in path:
        yield "adapter.path has no query; that is adapter.query's"


def _objects(mapping: Mapping[str, Any]) -> Iterator[str]:
    for name in ("query", "headers", "encoding", "statuses", "poll"):
        if not isinstance(mapping.get(name, {}), Mapping):
            yield f"adapter.{name} is an object"
            return
    for name in mapping.get("headers", {}):
        if not TOKEN.fullmatch(name) or name.lower() in OWN_HEADERS:
            yield f"adapter.headers cannot have {name}"
    for status, known in mapping.get("statuses", {}).items():
        if not re.fullmatch(r"[1-5][0-9][0-9]", str(status)) or known not in set(Known):
            yield f"adapter.statuses gives statuses one of {', '.join(Known)}"
    if unknown := sorted(set(mapping.get("poll", {})) - POLL):
        yield f"adapter.poll has no {', '.join(unknown)}; it has {', '.join(sorted(POLL))}"


def _parameters(given: Any) -> Iterator[str]:
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        yield "adapter.parameters is a list of objects"
        return
    for one in given:
        place = one.get("in")
        if not isinstance(one.get("name"), str) or place not in STYLES:
            yield f"a parameter has a name, and `in`: one of {', '.join(STYLES)}"
        elif one.get("style", STYLES[place][0]) not in STYLES[place]:
            yield f"parameter {one['name']}: style in {place} is one of {', '.join(STYLES[place])}"
        elif unknown := sorted(set(one) - PARAMETER):
            yield f"parameter {one['name']} has no {', '.join(unknown)}"
