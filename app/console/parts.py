"""What every page works with, and what a page is."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app.console.forms import Form, posted
from app.console.links import Links
from app.console.openid import OpenId
from app.console.sessions import Session, Sessions
from app.edges.parts import Parts
from app.identity import Identity

BASE: Final = "/console"
SESSION: Final = "console.session"
PAGE_PATH: Final = re.compile(r"/console(/[A-Za-z0-9_.~!$&'()*+,;=:@%-]+)*/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the navigation, with whatever belongs to it."""

    name: str
    title: str
    path: str  # below /console
    scopes: frozenset[str]  # whoever has one of them sees it
    by_group: bool = False  # so does who is in a group: what its groups may decide about
    router: Callable[["Console"], APIRouter]
    """Makes its routes; each has a path below `path`, and is asked for `scopes` before."""

    def open_to(self, who: Identity) -> bool:
        """Whether somebody sees it."""
        return bool(self.scopes & who.scopes) or (self.by_group and bool(who.groups))

    @property
    def url(self) -> str:
        """Its address."""
        return BASE + self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The parts of the console of one app process."""

    broker: Parts
    templates: Environment
    sessions: Sessions
    openid: OpenId | None
    links: Links | None
    pages: tuple[Page, ...] = field(default=())

    def shown_to(self, who: Identity) -> list[Page]:
        """The pages that the navigation has for somebody.

        Most people are in some group that decides about nothing: one that the catalog names leads
        to the page of decisions, though any opens it, as calls keep the groups that they began by.
        """
        decides = not who.groups.isdisjoint(self.broker.catalog.deciders)
        return [one for one in self.pages if one.scopes & who.scopes or (one.by_group and decides)]

    def render(self, template: str, **context: Any) -> str:
        """A template, or a part of a page, as text."""
        return self.templates.get_template(template).render(**context)

    def page(
        self, request: Request, template: str, *, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """A whole page, with the navigation of who is signed in."""
        session: Session | None = request.scope.get(SESSION)
        shown = [] if session is None else self.shown_to(session.who)
        path = request.url.path
        here = next((p.name for p in shown if path == p.url or path.startswith(f"{p.url}/")), "")
        text = self.render(template, session=session, nav=shown, here=here, **context)
        return HTMLResponse(text, status_code=status)


def session_of(request: Request) -> Session:
    """Who is signed in; each page of the navigation is asked for a session before."""
    return request.scope[SESSION]


def who_of(request: Request) -> Identity:
    """Whose page it is."""
    return session_of(request).who


async def form_of(request: Request) -> Form:
    """The form that a page of this session sent.

    Raises:
        ForgedError, BadRequestError: as `forms.posted`.
    """
    return await posted(request, session_of(request))


def safe_page(text: str) -> str:
    """A page of the console to go on to; the first one where it is anything else."""
    try:
        parts = urlsplit(text)
    except ValueError:  # such as of a [ without its ]
        return BASE
    fits = PAGE_PATH.fullmatch(parts.path) and not parts.scheme and not parts.netloc
    if not fits or "//" in parts.path or not text.isprintable() or not text.isascii():
        return BASE
    return parts._replace(fragment="").geturl()


def query_of(request: Request, **changes: str | None) -> Mapping[str, list[str]]:
    """The request's query with some fields changed, or without those that are None."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        found.setdefault(name, []).append(value)
    for name, value in changes.items():
        found.pop(name, None)
        if value is not None:
            found[name] = [value]
    return found
