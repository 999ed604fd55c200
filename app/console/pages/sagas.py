"""Sagas: what a tenant's callers run as one piece of work, newest first, by filters in the URL."""

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.commands.store.search import WINDOW
from app.console import lists, live
from app.console.lists import LIMIT, Saved, Word, chips, live_url, url
from app.console.pages import saga, saga_definitions
from app.console.parts import Console, Page, who_of
from app.edges.auth.scopes import CALL, OPERATE
from app.edges.commands import whose
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas.state import State
from app.sagas.store import search
from app.sagas.store.search import Found, Sought

SAVED: Final[Saved] = (
    ("All", ()),
    ("Waiting for an operator", ("stuck", "compensation_failed")),
    ("Under way", ("running", "stopping", "compensating")),
    ("Completed", ("completed",)),
    ("Undone", ("compensated",)),
)


class Filter(lists.Filter):
    """What the URL asks for."""

    state: list[State] = Field(default_factory=list, max_length=len(State))
    user: Word | None = None
    name: Word | None = None
    before: UUID | None = None

    def sought(self, who: Identity) -> Sought:
        """The same, to the database; who is no operator finds its own only."""
        return Sought(
            states=frozenset(self.state) or None,
            user_id=whose(who, everyone=True) or self.user,
            name=self.name,
        )


Asked = Annotated[Filter, Query()]


def router(console: Console) -> APIRouter:
    """The list, and its live part; definitions and each saga's own page are below it."""
    made = APIRouter(include_in_schema=False)

    async def part(request: Request, asked: Filter) -> live.Part:
        who = who_of(request)
        found = await _read(console, who, asked)
        html = console.render(
            "sagas_part.html",
            found=found,
            chips=chips(PAGE, request, SAVED, asked.state),
            older=None if found.before is None else url(PAGE, request, before=str(found.before)),
            newest=url(PAGE, request) if asked.before else None,
            narrow=asked.narrow,
            window=WINDOW,
            limit=LIMIT,
            everyone=OPERATE in who.scopes,
        )
        return live.Part(html=html, shows=[one.id for one in found.sagas])

    @made.get("")
    async def sagas(request: Request, asked: Asked) -> Response:
        """The page."""
        first = await part(request, asked)
        stream = None if asked.before else live_url(PAGE, request, first.digest)
        return console.page(
            request,
            "sagas.html",
            asked=asked,
            part=first,
            stream=stream,
            everyone=OPERATE in who_of(request).scopes,
        )

    @made.get("/live")
    async def followed(request: Request, asked: Asked) -> Response:
        """The list, whenever it has changed."""
        return await live.stream(console, request, lambda: part(request, asked))

    saga_definitions.add(made, console)
    saga.add(made, console)
    return made


async def _read(console: Console, who: Identity, asked: Filter) -> Found:
    async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
        return await search.find(
            conn,
            tenant_id=who.tenant_id,
            sought=asked.sought(who),
            before=asked.before,
            limit=LIMIT,
        )


PAGE: Final = Page(
    name="sagas",
    title="Sagas",
    path="/sagas",
    scopes=frozenset({CALL, OPERATE}),
    router=router,
)
