"""Sagas: what a tenant's callers run as one piece of work, newest first, by filters in the URL."""

from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.commands.store.search import WINDOW
from app.console import live
from app.console.pages import saga, saga_definitions
from app.console.parts import Console, Page, query_of, who_of
from app.edges.auth.scopes import CALL, OPERATE
from app.edges.commands import whose
from app.identity import Identity
from app.json_values import PlainText
from app.postgres.engine import tenant_transaction
from app.sagas.state import State
from app.sagas.store import search
from app.sagas.store.search import Found, Sought

LIMIT: Final = 50
SAVED: Final = (
    ("All", ()),
    ("Waiting for an operator", ("stuck", "compensation_failed")),
    ("Under way", ("running", "stopping", "compensating")),
    ("Completed", ("completed",)),
    ("Undone", ("compensated",)),
)
"""The filters by state that have a name."""

Word = Annotated[PlainText, Field(max_length=256)]


class Filter(BaseModel):
    """What the URL asks for; a field that is left blank is none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: list[State] = Field(default_factory=list, max_length=len(State))
    user: Word | None = None
    name: Word | None = None
    before: UUID | None = None

    @model_validator(mode="before")
    @classmethod
    def without_blanks(cls, given: Any) -> Any:
        """A form sends its blank fields too."""
        if not isinstance(given, dict):
            return given
        blank: tuple[object, ...] = ("", [""], [])
        return {name: value for name, value in given.items() if value not in blank}

    def sought(self, who: Identity) -> Sought:
        """The same, to the database; who is no operator finds its own only."""
        return Sought(
            states=frozenset(self.state) or None,
            user_id=whose(who, everyone=True) or self.user,
            name=self.name,
        )

    @property
    def narrow(self) -> bool:
        """Whether anything is asked for but a page."""
        return bool(self.model_dump(exclude={"before"}, exclude_defaults=True))


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
            chips=_chips(request, asked),
            older=None if found.before is None else _url(request, before=str(found.before)),
            newest=_url(request) if asked.before else None,
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
        stream = None if asked.before else f"{PAGE.url}/live?{request.url.query}"
        return console.page(
            request,
            "sagas.html",
            asked=asked,
            part=first.html,
            stream=stream,
            everyone=OPERATE in who_of(request).scopes,
        )

    @made.get("/live")
    async def followed(request: Request, asked: Asked) -> Response:
        """The list, whenever it has changed."""
        return live.stream(console, request, lambda: part(request, asked))

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


def _chips(request: Request, asked: Filter) -> list[dict[str, Any]]:
    """The named filters."""
    chosen = {str(one) for one in asked.state}
    return [
        {"title": title, "url": _url(request, state=list(states)), "here": chosen == set(states)}
        for title, states in SAVED
    ]


def _url(request: Request, *, state: list[str] | None = None, before: str | None = None) -> str:
    query = {**query_of(request, before=before)}
    if state is not None:
        query["state"] = state
    kept = {name: values for name, values in query.items() if any(values)}
    text = urlencode(kept, doseq=True)
    return f"{PAGE.url}?{text}" if text else PAGE.url


PAGE: Final = Page(
    name="sagas",
    title="Sagas",
    path="/sagas",
    scopes=frozenset({CALL, OPERATE}),
    router=router,
)
