"""Audit: what happened in a tenant, by whom; whether its log is as it was sealed; proofs of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.audit import reading
from app.audit.bundle import BundleError
from app.audit.store import export, search
from app.audit.store.export import Part
from app.audit.store.search import Place, Sought
from app.console.forms import Form
from app.console.lists import LIMIT, TimedFilter, Word, tool_of, url
from app.console.parts import Console, Page, form_of, who_of
from app.edges.auth.scopes import AUDIT
from app.edges.http.audit import cursor, cursor_of
from app.errors import BadRequestError, NotFoundError
from app.postgres.engine import tenant_transaction

PART_MAX: Final = 10_000
"""Events that one click checks, or downloads; the command line takes a whole log."""
SEAL_MAX: Final = 2**63 - 1


class Filter(TimedFilter):
    """What the URL asks for."""

    person: Word | None = None
    kind: Word | None = None
    tool: Word | None = None
    command: UUID | None = None
    before: Annotated[str, Field(max_length=80)] | None = None

    def sought(self) -> Sought:
        """The same, to the database."""
        tool, method = tool_of(self.tool)
        return Sought(
            person=self.person,
            kind=self.kind,
            tool=tool,
            method=method,
            command_id=self.command,
            since=self.since,
            until=self.until,
        )

    def place(self) -> Place | None:
        """The event that the page before ended with.

        Raises:
            BadRequestError: it is not what a page gave.
        """
        at, event_id = cursor(self.before)
        return None if at is None or event_id is None else (at, event_id)


Asked = Annotated[Filter, Query()]


def router(console: Console) -> APIRouter:
    """The search, and what is done with the log."""
    made = APIRouter(include_in_schema=False)

    @made.get("")
    async def events(request: Request, asked: Asked) -> Response:
        """The page."""
        tenant_id = who_of(request).tenant_id
        sought, before = asked.sought(), asked.place()
        done: list[dict[str, Any]] = []
        async with tenant_transaction(console.broker.database.engine, tenant_id) as conn:
            found = await search.find(
                conn, tenant_id=tenant_id, sought=sought, before=before, limit=LIMIT
            )
            if asked.person is not None:
                done = await search.activity(
                    conn, tenant_id=tenant_id, sought=sought, before=before
                )
        return console.page(
            request,
            "audit.html",
            asked=asked,
            found=found,
            done=done,
            older=None
            if found.before is None
            else url(PAGE, request, before=cursor_of(*found.before)),
            newest=url(PAGE, request) if asked.before else None,
            window=search.WINDOW,
            limit=LIMIT,
        )

    @made.get("/proof/{event_id}")
    async def proof(request: Request, event_id: UUID) -> Response:
        """An event's inclusion in its seal's checkpoint, as JSON to keep."""
        tenant_id = who_of(request).tenant_id
        async with tenant_transaction(console.broker.database.engine, tenant_id) as conn:
            found = await search.proof(conn, tenant_id=tenant_id, event_id=event_id)
        if found is None:
            raise NotFoundError(
                f"Event {event_id} is not sealed yet, or is none of your tenant's. Events are"
                " sealed about a second after they happen."
            )
        body = orjson.dumps({"event_id": event_id, **found}, default=_hex)
        return _download(body, "application/json", f"proof-{event_id}.json")

    _add_log(made, console)
    return made


def _add_log(made: APIRouter, console: Console) -> None:
    """The routes that read much of the log: one of them at a time in a process."""
    one_at_a_time = asyncio.Semaphore(1)

    @made.post("/verify")
    async def verify(request: Request) -> Response:
        """Check a part of the log, by default the newest."""
        tenant_id = who_of(request).tenant_id
        last = _last(await form_of(request))
        async with one_at_a_time, _log(console, tenant_id, last) as log:
            report = None
            if log.part is not None:
                report = await reading.check(
                    log.conn, tenant_id, first=log.part.first, last=log.part.last
                )
        return console.page(
            request, "audit_verified.html", part=log.part, report=report, most=PART_MAX
        )

    @made.post("/bundle")
    async def bundle(request: Request) -> Response:
        """The same part, as a file that `broker audit verify-bundle` checks."""
        tenant_id = who_of(request).tenant_id
        last = _last(await form_of(request))
        # Read whole before it is sent: no transaction may wait for somebody's network.
        async with one_at_a_time, _log(console, tenant_id, last) as log:
            if log.part is None:
                raise NotFoundError("Nothing is sealed in your tenant's log yet.")
            first, until = log.part.first, log.part.last
            try:
                lines = [
                    line.model_dump_json().encode() + b"\n"
                    async for line in reading.lines(log.conn, tenant_id, first=first, last=until)
                ]
            except BundleError as error:
                raise BadRequestError(f"{error}. Verify says what is wrong.") from error
        name = f"audit-{first}-{until}.ndjson"
        return _download(b"".join(lines), "application/x-ndjson", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A connection in a transaction of one tenant, and the part that is meant."""

    conn: asyncpg.Connection
    part: Part | None


@asynccontextmanager
async def _log(console: Console, tenant_id: str, last: int) -> AsyncGenerator[Log]:
    async with tenant_transaction(console.broker.database.engine, tenant_id) as conn:
        driver = (await conn.get_raw_connection()).driver_connection
        assert isinstance(driver, asyncpg.Connection)
        part = await export.part(driver, tenant_id, last=last, most=PART_MAX)
        yield Log(conn=driver, part=part)


def _last(form: Form) -> int:
    """The seal that a part ends with."""
    text = form.get("last").strip()
    if not text:
        return SEAL_MAX
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:20]) <= SEAL_MAX):
        raise BadRequestError("A seal's number is a number from 1.")
    return int(text[:20])


def _download(body: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, media_type=media_type, headers=headers)


def _hex(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


PAGE: Final = Page(
    name="audit",
    title="Audit",
    path="/audit",
    scopes=frozenset({AUDIT}),
    router=router,
)
