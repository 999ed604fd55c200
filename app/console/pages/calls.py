"""Calls: what a tenant's callers asked for, newest first, by filters in the URL."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.commands.state import State
from app.commands.store import search
from app.commands.store.search import Counts, Found, Sought
from app.console import live, shown
from app.console.lists import LIMIT, Saved, TimedFilter, Word, chips, live_url, tool_of, url
from app.console.pages import call
from app.console.parts import Console, Page, who_of
from app.edges.auth.scopes import CALL, OPERATE
from app.edges.commands import whose
from app.identity import Identity
from app.postgres.engine import tenant_transaction

SAVED: Final[Saved] = (
    ("All", ()),
    ("Queued", ("queued",)),
    ("In flight", ("dispatched", "running")),
    ("Ended badly", ("failed", "cancelled", "timed_out", "dead_lettered")),
    ("Succeeded", ("succeeded",)),
)


class Filter(TimedFilter):
    """What the URL asks for."""

    state: list[State] = Field(default_factory=list, max_length=len(State))
    tool: Word | None = None
    user: Word | None = None
    key: Word | None = None
    saga: UUID | None = None
    label: Word | None = None
    id: Word | None = None
    before: UUID | None = None

    def sought(self, who: Identity) -> Sought:
        """The same, to the database; who is no operator finds its own only."""
        tool, method = tool_of(self.tool)
        return Sought(
            states=frozenset(self.state) or None,
            user_id=whose(who, everyone=True) or self.user,
            tool=tool,
            method=method,
            ordering_key=self.key,
            saga_id=self.saga,
            label=self.label,
            id_part=None if self.id is None else self.id.strip().lower(),
            since=self.since,
            until=self.until,
        )


Asked = Annotated[Filter, Query()]


def router(console: Console) -> APIRouter:
    """The list, and its live part; a call's own page is below it."""
    made = APIRouter(include_in_schema=False)

    async def part(request: Request, asked: Filter) -> live.Part:
        who = who_of(request)
        found, counts = await _read(console, who, asked)
        html = console.render(
            "calls_part.html",
            found=found,
            told=shown.told,
            seconds=shown.seconds,
            chips=chips(PAGE, request, SAVED, asked.state, _counted(counts)),
            older=None if found.before is None else url(PAGE, request, before=str(found.before)),
            newest=url(PAGE, request) if asked.before else None,
            narrow=asked.narrow,
            window=search.WINDOW,
            limit=LIMIT,
            everyone=OPERATE in who.scopes,
        )
        return live.Part(html=html, shows=[one.id for one in found.commands if not one.final])

    @made.get("")
    async def calls(request: Request, asked: Asked) -> Response:
        """The page."""
        first = await part(request, asked)
        stream = None if asked.before else live_url(PAGE, request, first.digest)
        return console.page(
            request,
            "calls.html",
            asked=asked,
            part=first,
            stream=stream,
            states=list(State),
            everyone=OPERATE in who_of(request).scopes,
        )

    @made.get("/live")
    async def followed(request: Request, asked: Asked) -> Response:
        """The list, whenever it has changed."""
        return await live.stream(console, request, lambda: part(request, asked))

    call.add(made, console)
    return made


async def _read(console: Console, who: Identity, asked: Filter) -> tuple[Found, Counts | None]:
    async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
        found = await search.find(
            conn,
            tenant_id=who.tenant_id,
            sought=asked.sought(who),
            before=asked.before,
            limit=LIMIT,
        )
        if OPERATE not in who.scopes:
            return found, None
        day = datetime.now(UTC) - timedelta(days=1)
        return found, await search.counts(conn, tenant_id=who.tenant_id, since=day)


def _counted(counts: Counts | None) -> dict[str, str]:
    """How many calls the named filters find."""
    if counts is None:
        return {}
    return {
        "Queued": _bounded(counts.queued),
        "In flight": _bounded(counts.in_flight),
        "Ended badly": f"{_bounded(counts.troubled)} in 24 h",
    }


def _bounded(count: int) -> str:
    return f"{search.COUNT_MAX}+" if count > search.COUNT_MAX else str(count)


PAGE: Final = Page(
    name="calls",
    title="Calls",
    path="/calls",
    scopes=frozenset({CALL, OPERATE}),
    router=router,
)
