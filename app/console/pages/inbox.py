"""Inbox: everything that waits for a person, and what may be done about it, one or many."""

from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store import commands, heads, waiting
from app.commands.store.commands import Command
from app.commands.store.heads import Blocked
from app.console import live, shown, verbs
from app.console.forms import Form
from app.console.parts import Console, Page, form_of, session_of, who_of
from app.console.verbs import ITEMS_MAX, VERBS, Item, Verb
from app.edges.auth.scopes import OPERATE
from app.errors import BadRequestError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas import runs
from app.sagas.store import sagas
from app.sagas.store.sagas import SagaRow, StepRow

LIMIT: Final = 50
"""Of each kind that is shown; those behind come up as these are settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What waits, up to LIMIT and one of each kind."""

    approvals: list[Command]
    blocked: list[tuple[Blocked, Command | None]]
    steps: list[tuple[SagaRow, StepRow]]
    dead: list[Command]

    @property
    def nothing(self) -> bool:
        """Whether nobody is waited for."""
        return not (self.approvals or self.blocked or self.steps or self.dead)


def router(console: Console) -> APIRouter:
    """The list with its live part, the preview, and the deed."""
    made = APIRouter(include_in_schema=False)

    async def part(request: Request) -> live.Part:
        who = who_of(request)
        async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
            found = await _read(conn, who)
        args = {
            one.id: await shown.arguments(console.broker.catalog, one)
            for one in found.approvals[:LIMIT]
        }
        html = console.render(
            "inbox_part.html",
            session=session_of(request),
            found=found,
            args=args,
            told=shown.told,
            limit=LIMIT,
            verbs=VERBS,
        )
        watched = [*found.approvals, *found.dead]
        return live.Part(html=html, shows=[one.id for one in watched])

    @made.get("")
    async def inbox(request: Request) -> Response:
        """The page."""
        first = await part(request)
        return console.page(request, "inbox.html", part=first)

    @made.get("/live")
    async def followed(request: Request) -> Response:
        """The list, whenever it has changed."""
        return live.stream(console, request, lambda: part(request))

    @made.post("/preview")
    async def preview(request: Request) -> Response:
        """What a verb would touch; nothing is done."""
        form = await form_of(request)
        name, verb, items = chosen(form)
        found = await verbs.preview(console.broker, who_of(request), verb, items)
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
        )

    @made.post("/act")
    async def act(request: Request) -> Response:
        """Do it, and say what came of each."""
        form = await form_of(request)
        _, verb, items = chosen(form)
        reason = form.reason()
        done = await verbs.act(console.broker, who_of(request), verb, items, reason)
        return console.page(request, "inbox_done.html", verb=verb, done=done, reason=reason)

    return made


def chosen(form: Form) -> tuple[str, Verb, list[Item]]:
    """The verb and the items that a form names.

    Raises:
        BadRequestError: it names none, too many, or what does not go together.
    """
    name = form.get("verb")
    verb = VERBS.get(name)
    if verb is None:
        raise BadRequestError("Choose what to do.")
    names = form.all("item")
    if not names:
        raise BadRequestError("Choose something from the list first.")
    if len(names) > ITEMS_MAX:
        raise BadRequestError(f"Choose {ITEMS_MAX} at the most.")
    return name, verb, [verbs.item_of(one, verb.kind) for one in names]


async def _read(conn: AsyncConnection, who: Identity) -> Waiting:
    tenant_id = who.tenant_id
    blocked = await heads.list_blocked(conn, tenant_id=tenant_id, after=None, limit=LIMIT + 1)
    by_id = {
        one.id: one for one in await commands.find_many(conn, [key.command_id for key in blocked])
    }
    steps: list[tuple[SagaRow, StepRow]] = []
    for saga in await sagas.list_waiting(conn, tenant_id=tenant_id, limit=LIMIT + 1):
        rows = await sagas.steps(conn, saga.id)
        steps += [(saga, row) for row in rows if runs.waits(saga, row)]
    dead = await waiting.dead(conn, tenant_id=tenant_id, limit=LIMIT + 1)
    return Waiting(
        approvals=await waiting.unapproved(conn, tenant_id=tenant_id, limit=LIMIT + 1),
        blocked=[(key, by_id.get(key.command_id)) for key in blocked],
        steps=steps,
        dead=[one for one in dead if one.id not in by_id],
    )


PAGE: Final = Page(
    name="inbox",
    title="Inbox",
    path="/inbox",
    scopes=frozenset({OPERATE}),
    router=router,
)
