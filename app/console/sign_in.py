"""In and out: sign-in by the issuer or by a development stack's link, and sign-out."""

from contextlib import suppress
from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from app.console.forms import Form, posted
from app.console.openid import CALLBACK, SIGN_IN_S, Begun, OpenId
from app.console.parts import BASE, Console, safe_page
from app.console.sessions import Method, NoSessionError
from app.edges.auth.tokens import LoginFailedError
from app.errors import NotFoundError
from app.identity import Identity

BEGUN_CHARS_MAX: Final = 4000


def router(console: Console) -> APIRouter:
    """The routes that need no session."""
    made = APIRouter(prefix=BASE, include_in_schema=False)

    @made.get("/sign-in")
    async def sign_in(request: Request) -> Response:
        """Say how to sign in."""
        page = safe_page(request.query_params.get("page", ""))
        ended = "ended" in request.query_params
        return _shown(console, request, page=page, ended=ended, problem=None)

    @made.get("/signed-out")
    async def signed_out(request: Request) -> Response:
        """Say that nobody is signed in any more."""
        url = None if console.openid is None else await console.openid.end_url()
        return console.page(request, "signed_out.html", issuer_url=url)

    @made.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        """End the session, here and at every replica."""
        try:
            session = await console.sessions.find(request, touch=False)
        except NoSessionError:
            session = None
        await posted(request, session)
        if session is not None:
            await console.sessions.end(session)
        # To a page of ours: form-action keeps a form's answer from leading to the issuer.
        answer = RedirectResponse(f"{BASE}/signed-out", status_code=303)
        console.sessions.clear_cookie(answer)
        return answer

    if console.openid is not None:
        _add_openid(made, console, console.openid)
    if console.links is not None:
        _add_links(made, console)
    return made


def _add_openid(made: APIRouter, console: Console, openid: OpenId) -> None:
    cookie = ("__Host-" if console.sessions.secure else "") + "mcpbroker_sign_in"

    @made.get("/sign-in/openid")
    async def begin(request: Request) -> Response:
        """Send the person to the issuer."""
        url, begun = await openid.begin(safe_page(request.query_params.get("page", "")))
        answer = RedirectResponse(url, status_code=303)
        answer.set_cookie(
            cookie,
            begun.cookie(),
            max_age=SIGN_IN_S,
            path="/",
            secure=console.sessions.secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    @made.get(CALLBACK.removeprefix(BASE))
    async def callback(request: Request) -> Response:
        """The person comes back."""
        kept = request.cookies.get(cookie, "")
        begun = Begun.of(kept) if len(kept) <= BEGUN_CHARS_MAX else None
        if begun is None:
            problem = "This sign-in was not begun in this browser, or it took too long."
            return _shown(console, request, page=BASE, ended=False, problem=problem, status=400)
        try:
            who = await openid.finish(begun, dict(request.query_params))
        except LoginFailedError as error:
            return _refused(console, request, error)
        answer = await _entered(console, request, who, method="openid", page=begun.page)
        answer.delete_cookie(cookie, path="/", secure=console.sessions.secure, httponly=True)
        return answer


def _add_links(made: APIRouter, console: Console) -> None:
    links = console.links
    assert links is not None

    @made.get("/sign-in/link")
    async def ask(request: Request) -> Response:
        """Show whom a link lets in: it is used by the button, not by whoever looks at it first."""
        token = request.query_params.get("token", "")
        try:
            who = await links.identity(token)
        except LoginFailedError as error:
            return _refused(console, request, error)
        return console.page(request, "sign_in_link.html", who=who, token=token)

    @made.post("/sign-in/link")
    async def enter(request: Request) -> Response:
        """Use the link."""
        form: Form = await posted(request, None)
        token = form.get("token")
        try:
            who = await links.identity(token)
        except LoginFailedError as error:
            return _refused(console, request, error)
        return await _entered(console, request, who, method="link", page=BASE, link=token)


async def _entered(
    console: Console,
    request: Request,
    who: Identity,
    *,
    method: Method,
    page: str,
    link: str | None = None,
) -> Response:
    """A new session in place of whichever there was."""
    if await console.broker.catalog.tenant(who.tenant_id) is None:
        raise NotFoundError(f"Tenant {who.tenant_id!r} is not set up, or is suspended.")
    value = await console.sessions.begin(who, method=method, link=link)
    with suppress(NoSessionError):
        await console.sessions.end(await console.sessions.find(request, touch=False))
    answer = RedirectResponse(page, status_code=303)
    console.sessions.set_cookie(answer, value)
    return answer


def _refused(console: Console, request: Request, error: LoginFailedError) -> Response:
    """Nobody was let in: the audit trail has why, and the person what may be done."""
    peer = "unknown" if request.client is None else request.client.host
    console.broker.refusals.login_failed(error, peer=peer)
    problem = "That did not work. The audit trail says why; try again, or ask an administrator."
    return _shown(console, request, page=BASE, ended=False, problem=problem, status=401)


def _shown(
    console: Console,
    request: Request,
    *,
    page: str,
    ended: bool,
    problem: str | None,
    status: int = 200,
) -> Response:
    issuer = None if console.openid is None else console.openid.issuer.issuer
    return console.page(
        request,
        "sign_in.html",
        status=status,
        issuer=issuer,
        links=console.links is not None,
        begin=f"{BASE}/sign-in/openid?{urlencode({'page': page})}",
        ended=ended,
        problem=problem,
    )


def sign_in_url(request: Request, *, ended: bool) -> str:
    """Where to sign in, to come back to this page."""
    asked = {"page": safe_page(request.url.path + (f"?{q}" if (q := request.url.query) else ""))}
    if ended:
        asked["ended"] = "1"
    return f"{BASE}/sign-in?{urlencode(asked)}"
