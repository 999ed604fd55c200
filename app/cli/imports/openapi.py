"""`broker catalog import openapi`: the operations of an OpenAPI 3 document."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urljoin, urlsplit

import typer

from adapters.contract import Opening
from adapters.http.documents import BYTES_MAX, SOURCE, fetched, key_of, read
from adapters.http.openapi import Operation, of_form, operations
from adapters.http.pointers import Document, OpenApiError
from app.cli.common import fail
from app.cli.imports.draft import Draft, Skipped, Source
from app.cli.imports.entries import plain
from app.cli.imports.opening import undeclared
from app.cli.imports.options import Bearer, Ca, http_target, importing
from app.errors import BadRequestError, cut

READS: Final = ("GET", "HEAD", "OPTIONS", "QUERY")
IDEMPOTENT: Final = (*READS, "PUT", "DELETE")
DESTROYS: Final = ("PUT", "PATCH", "DELETE")

Document_ = Annotated[str, typer.Argument(metavar="FILE|URL", help="JSON or YAML, 3.0 or newer.")]
Server = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the API is; the document's first server.")
]
Header = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=REFERENCE", help="A header to show in place of a bearer, as X-Key=env:KEY."
    ),
]


@importing
async def command(
    document: Document_,
    server: Server = None,
    bearer: Bearer = None,
    header: Header = None,
    ca: Ca = None,
) -> Source:
    """Write the catalog of an HTTP API's operations, to review; nothing is put in force.

    GET, HEAD and OPTIONS read; PUT and DELETE are idempotent; PUT, PATCH and DELETE ask before each
    call. Each entry pins a digest of its operation. Of a document at a URL, the worker compares it
    once a minute, and does not call what is otherwise now (target_changed).
    """
    if bearer and header:
        raise fail("--bearer or --header: one credential shows who calls.")
    target = {"kind": "http", **http_target(server or document, bearer, ca)}
    if header is not None:
        shown, _, reference = header.partition("=")
        if not reference:
            raise fail("--header is NAME=REFERENCE, such as X-Key=env:KEY")
        target["credential"] = {"type": "header", "name": shown, "value": reference}
    if not _is_url(document):
        return source(await _file(document), target, None, server)
    async with undeclared(target) as opening:
        return source(_read(await fetched(opening, document)), target, document, server)


def source(
    value: Any, target: Mapping[str, Any], url: str | None, server: str | None = None
) -> Source:
    """A document as a source.

    Raises:
        BadRequestError: it is no OpenAPI 3 document.
    """
    try:
        with of_form("the document"):
            return _source(value, target, url, server)
    except OpenApiError as error:
        raise BadRequestError(str(error)) from error


def _source(value: Any, target: Mapping[str, Any], url: str | None, server: str | None) -> Source:
    drafts = list(_drafts(value))
    info: Mapping[str, Any] = value.get("info") or {}
    title = str(info.get("title") or "an API")
    whole = {**target, "address": server or _server(value, url)}
    if url is not None:
        whole["options"] = {SOURCE: url}
    return Source(
        told=f"{title} {info.get('version', '')}, OpenAPI {value['openapi']}",
        name=plain(title).replace("-", "_").lower(),
        target=whole,
        found=drafts,
        notes=tuple(_notes(value, target, url)),
    )


async def found(opening: Opening, told: str | None) -> list[Draft | Skipped] | None:
    """The operations as they are now; None where the target names no document."""
    at = told or opening.target.options.get(SOURCE)
    if at is None:
        return None
    value = _read(await fetched(opening, at)) if _is_url(at) else await _file(at)
    try:
        return list(_drafts(value))
    except OpenApiError as error:
        raise BadRequestError(str(error)) from error


def _drafts(value: Any) -> Iterator[Draft | Skipped]:
    for one in operations(value):
        if isinstance(one, Operation):
            yield _draft(Document(value), one)
        else:
            yield Skipped(source=one.name, reason=one.reason)


def _draft(document: Document, one: Operation) -> Draft:
    notes: list[str] = []
    item = document.resolved(document.value["paths"][one.mapping["path"]])
    if "servers" in item or "servers" in item[one.method.lower()]:
        notes.append("It has a server of its own in the document: give it a target of its own.")
    if one.deprecated:
        notes.append("It is deprecated.")
    reads = one.method in READS
    hints: dict[str, Any] = {"readOnlyHint": reads}
    if not reads:
        hints["idempotentHint"] = one.method in IDEMPOTENT
    if one.method in DESTROYS:
        hints["destructiveHint"] = True
    return Draft(
        source=one.name,
        key=key_of(one.mapping),
        title=one.title or "",
        description=one.description or f"{one.method} {one.mapping['path']}",
        input_schema=one.input_schema,
        output_schema=one.output_schema,
        mapping=one.mapping,
        read_only=reads,
        idempotent=one.method in IDEMPOTENT,
        destructive=one.method in DESTROYS,
        annotations=hints,
        notes=tuple(notes),
    )


def _notes(value: Any, target: Mapping[str, Any], url: str | None) -> Iterator[str]:
    yield "POST is taken to add something: say `approval: ask` where it does more."
    if url is not None:
        yield (
            "The worker compares each operation with the document at `openapi`, once a minute;"
            " without that option it is compared by `broker catalog diff` only."
        )
    schemes: Mapping[str, Any] = (value.get("components") or {}).get("securitySchemes") or {}
    if schemes and "credential" not in target:
        kinds = [
            " ".join(str(one[key]) for key in ("type", "scheme", "in", "name") if key in one)
            for one in map(Document(value).resolved, schemes.values())
        ]
        yield f"The API wants a credential ({'; '.join(kinds)}): name one at the target."


def _server(value: Mapping[str, Any], url: str | None) -> str:
    """The first server, with its variables' defaults; relative to the document's URL."""
    first: Mapping[str, Any] = next(iter(value.get("servers") or ()), {})
    at = str(first.get("url", "/"))
    for name, one in (first.get("variables") or {}).items():
        at = at.replace(f"{{{name}}}", str(one.get("default", "")))
    whole = urljoin(url or "", at).rstrip("/")
    if not _is_url(whole):
        raise BadRequestError(
            f"the document's server is {cut(at)!r}: say where it is by --server URL"
        )
    return whole


def _is_url(text: str) -> bool:
    try:
        return urlsplit(text).scheme in ("http", "https")
    except ValueError:
        return False


async def _file(name: str) -> Any:
    def text() -> bytes:
        with Path(name).open("rb") as file:
            return file.read(BYTES_MAX + 1)

    raw = await asyncio.to_thread(text)
    if len(raw) > BYTES_MAX:
        raise BadRequestError(f"{name} has over {BYTES_MAX} bytes")
    return _read(raw)


def _read(raw: bytes) -> Any:
    try:
        return read(raw)
    except OpenApiError as error:
        raise BadRequestError(str(error)) from error
