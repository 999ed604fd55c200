"""Inbox: everything that waits for a person, and what may be done about it, one or many.

Operators have all of it; who is none, the approvals that they may decide about as one of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.approvals import Needed, has_approved, may_decide, waits_for
from app.commands.store import commands, heads, waiting
from app.commands.store.commands import Command
from app.commands.store.waiting import COUNT_MAX, Asking
from app.console import live, shown, verbs
from app.console.forms import Form
from app.console.lists import LIMIT, Filter, Word, live_url, url
from app.console.parts import Console, Page, form_of, session_of, who_of
from app.console.verbs import ITEMS_MAX, VERBS, Item, Verb
from app.edges.auth.scopes import OPERATE, need
from app.edges.http.audit import cursor, cursor_of
from app.errors import BadRequestError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas import runs
from app.sagas.store import sagas

Kind = Literal["approvals", "blocked", "sagas", "dead"]
KINDS: Final[tuple[Kind, ...]] = ("approvals", "blocked", "sagas", "dead")


class Asked(Filter):
    """What the URL asks for: all kinds from their beginning, or one of them behind a place."""

    kind: Kind | None = None
    after: Word | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A page of one kind, where the next one begins, and how many there are in all."""

    rows: Sequence[Any]
    more: str | None
    count: int

    @property
    def counted(self) -> str:
        """The count, up to its bound."""
        return f"{COUNT_MAX}+" if self.count > COUNT_MAX else str(self.count)


def router(console: Console) -> APIRouter:
    """The list with its live part, the preview, and the deed."""
    made = APIRouter(include_in_schema=False)

    async def part(request: Request, asked: Asked) -> live.Part:
        who = who_of(request)
        async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
            found = {kind: await READ[kind](conn, who, asked.after) for kind in _kinds(who, asked)}
        approvals: Sequence[Command] = found["approvals"].rows if "approvals" in found else ()
        html = console.render(
            "inbox_part.html",
            session=session_of(request),
            found=found,
            nothing=not any(one.rows for one in found.values()),
            args={one.id: await shown.arguments(console.broker.catalog, one) for one in approvals},
            deciding={one.id: _deciding(one, who) for one in approvals},
            told=shown.told,
            more={
                kind: url(PAGE, request, kind=[kind], after=[one.more])
                for kind, one in found.items()
                if one.more is not None
            },
            asked=asked,
            operator=OPERATE in who.scopes,
            verbs=VERBS,
        )
        dead: Sequence[Command] = found["dead"].rows if "dead" in found else ()
        return live.Part(html=html, shows=[one.id for one in (*approvals, *dead)])

    @made.get("")
    async def inbox(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """The page."""
        first = await part(request, asked)
        stream = None if asked.after else live_url(PAGE, request, first.digest)
        operator = OPERATE in who_of(request).scopes
        return console.page(
            request, "inbox.html", part=first, stream=stream, asked=asked, operator=operator
        )

    @made.get("/live")
    async def followed(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """The list, whenever it has changed."""
        return await live.stream(console, request, lambda: part(request, asked))

    _add_verbs(made, console)
    return made


def _add_verbs(made: APIRouter, console: Console) -> None:
    @made.post("/preview")
    async def preview(request: Request) -> Response:
        """What a verb would touch; nothing is done."""
        who = who_of(request)
        name, verb, items = chosen(await form_of(request), who)
        found = await verbs.preview(console.broker, who, verb, items)
        args = {
            one.item.name: await shown.arguments(console.broker.catalog, one.command)
            for one in found
            if one.command is not None
        }
        return console.page(
            request,
            "inbox_preview.html",
            name=name,
            verb=verb,
            found=found,
            args=args,
            able=[one for one in found if not one.refused],
            operator=OPERATE in who.scopes,
        )

    @made.post("/act")
    async def act(request: Request) -> Response:
        """Do it, and say what came of each."""
        who = who_of(request)
        form = await form_of(request)
        _, verb, items = chosen(form, who)
        reason = form.reason()
        done = await verbs.act(console.broker, who, verb, items, reason)
        operator = OPERATE in who.scopes
        return console.page(
            request, "inbox_done.html", verb=verb, done=done, reason=reason, operator=operator
        )


def chosen(form: Form, who: Identity) -> tuple[str, Verb, list[Item]]:
    """The verb and the items that a form names.

    Raises:
        BadRequestError: it names none, too many, or what does not go together.
        ForbiddenError: the verb is an operator's.
    """
    name = form.get("verb")
    verb = VERBS.get(name)
    if verb is None:
        raise BadRequestError("Choose what to do.")
    verbs.must_do(who, verb)
    names = form.all("item")
    if not names:
        raise BadRequestError("Choose something from the list first.")
    if len(names) > ITEMS_MAX:
        raise BadRequestError(f"Choose {ITEMS_MAX} at the most.")
    return name, verb, [verbs.item_of(one, verb.kind) for one in names]


def _kinds(who: Identity, asked: Asked) -> Sequence[Kind]:
    """What is read.

    Raises:
        BadRequestError: it goes on behind a place of no kind.
        ForbiddenError: it is an operator's.
    """
    if asked.kind is None and asked.after is not None:
        raise BadRequestError("A page goes on in one kind: give kind with after.")
    if asked.kind not in {None, "approvals"}:
        need(who, OPERATE)
    if asked.kind is not None:
        return (asked.kind,)
    return KINDS if OPERATE in who.scopes else ("approvals",)


def _deciding(command: Command, who: Identity) -> dict[str, Any]:
    """How a call's approval stands, and what it has to do with whoever looks."""
    needed = Needed.of(command)
    own = needed.not_own and command.user_id == who.user_id
    return {
        "counted": len(command.approvals or ()),
        "quorum": needed.quorum,
        "by": [one["user"] for one in command.approvals or ()],
        "may": may_decide(command, who, operator=OPERATE in who.scopes),
        "own": own,
        "mine": has_approved(command, who.user_id),
        "waits": waits_for(command),
        "until": command.approval_until,
    }


async def _approvals(conn: AsyncConnection, who: Identity, after: str | None) -> Listed:
    asking = Asking(
        tenant_id=who.tenant_id, groups=sorted(who.groups), everyone=OPERATE in who.scopes
    )
    found = await waiting.unapproved(conn, asking, after=_place(after), limit=LIMIT)
    more = None if found.more is None else cursor_of(*found.more)
    count = await waiting.count_unapproved(conn, asking)
    return Listed(rows=found.commands, more=more, count=count)


async def _blocked(conn: AsyncConnection, who: Identity, after: str | None) -> Listed:
    tenant_id = who.tenant_id
    found = await heads.list_blocked(conn, tenant_id=tenant_id, after=after, limit=LIMIT + 1)
    more = found[LIMIT - 1].ordering_key if len(found) > LIMIT else None
    found = found[:LIMIT]
    known = await commands.find_many(conn, [one.command_id for one in found])
    by_id = {one.id: one for one in known}
    count = await heads.count_blocked(conn, tenant_id=tenant_id, most=COUNT_MAX + 1)
    return Listed(rows=[(one, by_id.get(one.command_id)) for one in found], more=more, count=count)


async def _sagas(conn: AsyncConnection, who: Identity, after: str | None) -> Listed:
    tenant_id = who.tenant_id
    try:
        before = None if after is None else UUID(after)
    except ValueError as error:
        raise BadRequestError("after is what the page before gave.") from error
    found = await sagas.list_waiting(conn, tenant_id=tenant_id, before=before, limit=LIMIT + 1)
    rows = [
        (saga, row)
        for saga in found[:LIMIT]
        for row in await sagas.steps(conn, saga.id)
        if runs.waits(saga, row)
    ]
    more = str(found[LIMIT - 1].id) if len(found) > LIMIT else None
    count = await sagas.count_waiting(conn, tenant_id=tenant_id, most=COUNT_MAX + 1)
    return Listed(rows=rows, more=more, count=count)


async def _dead(conn: AsyncConnection, who: Identity, after: str | None) -> Listed:
    tenant_id = who.tenant_id
    found = await waiting.dead(conn, tenant_id=tenant_id, before=_place(after), limit=LIMIT)
    more = None if found.more is None else cursor_of(*found.more)
    count = await waiting.count_dead(conn, tenant_id=tenant_id)
    return Listed(rows=found.commands, more=more, count=count)


def _place(after: str | None) -> waiting.Place | None:
    at, command_id = cursor(after)
    return None if at is None or command_id is None else (at, command_id)


READ: Final = {"approvals": _approvals, "blocked": _blocked, "sagas": _sagas, "dead": _dead}

PAGE: Final = Page(
    name="inbox",
    title="Inbox",
    path="/inbox",
    scopes=frozenset({OPERATE}),
    by_group=True,
    router=router,
)
