"""Calls: what a tenant's callers asked for, newest first, by filters in the URL."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Self
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.commands.state import State
from app.commands.store import search
from app.commands.store.search import Counts, Found, Sought
from app.console import live, shown
from app.console.pages import call
from app.console.parts import Console, Page, query_of, who_of
from app.edges.auth.scopes import CALL, OPERATE
from app.edges.commands import whose
from app.identity import Identity
from app.json_values import PlainText
from app.postgres.engine import tenant_transaction

LIMIT: Final = 50
SAVED: Final = (
    ("All", ()),
    ("Queued", ("queued",)),
    ("In flight", ("dispatched", "running")),
    ("Ended badly", ("failed", "cancelled", "timed_out", "dead_lettered")),
    ("Succeeded", ("succeeded",)),
)
"""The filters by state that have a name."""

Word = Annotated[PlainText, Field(max_length=256)]


class Filter(BaseModel):
    """What the URL asks for; a field that is left blank is none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: list[State] = Field(default_factory=list, max_length=len(State))
    tool: Word | None = None
    user: Word | None = None
    key: Word | None = None
    saga: UUID | None = None
    label: Word | None = None
    id: Word | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None

    @model_validator(mode="before")
    @classmethod
    def without_blanks(cls, given: Any) -> Any:
        """A form sends its blank fields too."""
        if not isinstance(given, dict):
            return given
        blank: tuple[object, ...] = ("", [""], [])
        return {name: value for name, value in given.items() if value not in blank}

    @model_validator(mode="after")
    def in_utc(self) -> Self:
        """A time without a zone is UTC's, as all that the console shows."""
        changed = {
            name: at.replace(tzinfo=UTC)
            for name in ("since", "until")
            if (at := getattr(self, name)) is not None and at.tzinfo is None
        }
        return self.model_copy(update=changed) if changed else self

    def sought(self, who: Identity) -> Sought:
        """The same, to the database; who is no operator finds its own only."""
        tool, _, method = (self.tool or "").partition("/")
        return Sought(
            states=frozenset(self.state) or None,
            user_id=whose(who, everyone=True) or self.user,
            tool=tool or None,
            method=method or None,
            ordering_key=self.key,
            saga_id=self.saga,
            label=self.label,
            id_part=None if self.id is None else self.id.strip().lower(),
            since=self.since,
            until=self.until,
        )

    @property
    def narrow(self) -> bool:
        """Whether anything is asked for but a page."""
        return bool(self.model_dump(exclude={"before"}, exclude_defaults=True))


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
            chips=_chips(request, asked, counts),
            older=None if found.before is None else _url(request, before=str(found.before)),
            newest=_url(request) if asked.before else None,
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
        query = urlencode({**query_of(request), "seen": [first.digest]}, doseq=True)
        stream = None if asked.before else f"{PAGE.url}/live?{query}"
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
        return live.stream(console, request, lambda: part(request, asked))

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


def _chips(request: Request, asked: Filter, counts: Counts | None) -> list[dict[str, Any]]:
    """The named filters, with how many there are where that is known."""
    chosen = {str(one) for one in asked.state}
    known: dict[str, str] = {}
    if counts is not None:
        known = {
            "Queued": _bounded(counts.queued),
            "In flight": _bounded(counts.in_flight),
            "Ended badly": f"{_bounded(counts.troubled)} in 24 h",
        }
    return [
        {
            "title": title,
            "url": _url(request, state=list(states)),
            "here": chosen == set(states),
            "count": known.get(title, ""),
        }
        for title, states in SAVED
    ]


def _bounded(count: int) -> str:
    return f"{search.COUNT_MAX}+" if count > search.COUNT_MAX else str(count)


def _url(request: Request, *, state: list[str] | None = None, before: str | None = None) -> str:
    query = {**query_of(request, before=before, seen=None)}
    if state is not None:
        query["state"] = state
    kept = {name: values for name, values in query.items() if any(values)}
    text = urlencode(kept, doseq=True)
    return f"{PAGE.url}?{text}" if text else PAGE.url


PAGE: Final = Page(
    name="calls",
    title="Calls",
    path="/calls",
    scopes=frozenset({CALL, OPERATE}),
    router=router,
)
