"""The console put together: its routes behind a session, its headers on every answer."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.console import sign_in
from app.console.links import Links
from app.console.openid import OpenId
from app.console.pages import PAGES, approval
from app.console.parts import BASE, SESSION, Console, Page, session_of
from app.console.sessions import NoSessionError, Sessions
from app.console.templating import HERE, environment
from app.edges import failures
from app.edges.auth.tokens import LoginFailedError
from app.edges.parts import Parts
from app.errors import BrokerError, ForbiddenError
from app.postgres.engine import AWAY

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # Nothing to other sites, as no-referrer; but with that a form's Origin would be `null`
    # (Fetch, 3.1), and it is by the Origin that a forged form is told.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STATIC_S: Final = 3600


def build(broker: Parts) -> ASGIApp | None:
    """The console of an app process; None where nobody could sign in."""
    settings = broker.settings
    trusted = settings.console_trusts
    openid = settings.console_client_id is not None and trusted is not None
    links = settings.console_links
    if not openid and links is None:
        return None
    assert trusted is not None or not openid
    console = Console(
        broker=broker,
        templates=environment(),
        sessions=Sessions(broker.database.engine, settings),
        openid=OpenId(settings, trusted) if openid and trusted is not None else None,
        links=None if links is None else Links(settings, links),
        pages=PAGES,
    )
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(sign_in.router(console))
    for page in PAGES:
        guards = [Depends(signed_in(console)), Depends(needs(page))]
        app.include_router(page.router(console), prefix=page.url, dependencies=guards)
    guards = [Depends(signed_in(console))]
    app.include_router(approval.router(console), prefix=approval.PATH, dependencies=guards)
    app.add_api_route(BASE, first(console), dependencies=[Depends(signed_in(console))])
    app.add_api_route(f"{BASE}/", first(console), dependencies=[Depends(signed_in(console))])
    app.mount(f"{BASE}/static", StaticFiles(directory=HERE / "static"))
    _answer_errors(app, console)
    return headed(app)


def signed_in(console: Console) -> Callable[[Request], Awaitable[None]]:
    """Have a request's session found before its page is made."""

    async def found(request: Request) -> None:
        # A live part is asked for by the page alone, again after each loss of the connection.
        touch = not request.url.path.endswith("/live")
        request.scope[SESSION] = await console.sessions.find(request, touch=touch)
        await console.broker.catalog.tools()  # by their groups the navigation is made

    return found


def needs(page: Page) -> Callable[[Request], Awaitable[None]]:
    """Hold a page to its scopes."""

    async def checked(request: Request) -> None:
        who = session_of(request).who
        if not page.open_to(who):
            wanted = min(page.scopes)
            raise ForbiddenError(
                f"{page.title} is for people with scope {' or '.join(sorted(page.scopes))}.",
                scope=wanted,
            )

    return checked


def first(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """The first page that somebody may see."""

    async def page(request: Request) -> Response:
        who = session_of(request).who
        opened = [one for one in console.pages if one.open_to(who)]
        found = next(iter([*console.shown_to(who), *opened]), None)
        if found is None:
            raise ForbiddenError("Your sign-in has no scope that any page of the console is for.")
        return RedirectResponse(found.url, status_code=303)

    return page


def headed(app: ASGIApp) -> ASGIApp:
    """The same app, whose every answer has the console's headers."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                asset = scope["path"].startswith(f"{BASE}/static/") and message["status"] < 400  # noqa: PLR2004
                headers["Cache-Control"] = f"public, max-age={STATIC_S}" if asset else "no-store"
            await send(message)

        await app(scope, receive, sent)

    return served


def _answer_errors(app: FastAPI, console: Console) -> None:
    """Have every error be a page that says what to do."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, BrokerError)
        _note(console, request, error)
        return _problem(console, request, error)

    async def nobody(request: Request, error: Exception) -> Response:
        assert isinstance(error, NoSessionError)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            url = sign_in.sign_in_url(request, ended=error.ended)
            return RedirectResponse(url, status_code=303)
        return console.page(request, "ended.html", status=401, url=f"{BASE}/sign-in")

    async def unreadable(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _problem(console, request, failures.invalid(error))

    async def standard(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return console.page(
            request,
            "error.html",
            status=error.status_code,
            title=str(error.detail),
            detail="The address may be mistyped, or what it named is not there.",
            code=f"http_{error.status_code}",
        )

    async def broken(request: Request, error: Exception) -> Response:
        return _problem(console, request, failures.translated(error, path=request.url.path))

    app.add_exception_handler(BrokerError, refused)
    app.add_exception_handler(NoSessionError, nobody)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, standard)
    for kind in (*AWAY, Exception):
        app.add_exception_handler(kind, broken)


def _problem(console: Console, request: Request, error: BrokerError) -> Response:
    """An error as a page."""
    members = failures.members(error)
    return console.page(
        request,
        "error.html",
        status=error.status,
        title=members["title"],
        detail=members["detail"],
        code=error.code,
    )


def _note(console: Console, request: Request, error: BrokerError) -> None:
    """Have a failed login or a denial audited, as the JSON routes do."""
    peer = "unknown" if request.client is None else request.client.host
    if isinstance(error, LoginFailedError):
        console.broker.refusals.login_failed(error, peer=peer)
    elif isinstance(error, ForbiddenError) and SESSION in request.scope:
        console.broker.refusals.denied(
            session_of(request).who,
            reason=error.code,
            peer=peer,
            detail=error.detail,
            path=request.url.path,
        )
