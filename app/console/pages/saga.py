"""A saga: its graph, where each step stands, the order of its undoing, and what settles it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from app.commands.store import commands
from app.commands.store.commands import Command
from app.console import dag, live
from app.console.forms import Form
from app.console.parts import BASE, Console, form_of, who_of
from app.edges import sagas as acts
from app.edges.auth.scopes import CALL, OPERATE, need
from app.errors import BadRequestError, NotCancellableError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas import runs
from app.sagas.state import State, StepState
from app.sagas.store.sagas import SagaRow, StepRow

TITLES: Final[Mapping[tuple[runs.Verb, runs.Outcome | None], tuple[str, str]]] = {
    ("retry", None): ("retry", "Retry"),
    ("skip", None): ("skip", "Skip"),
    ("resolve", "succeeded"): ("resolve-succeeded", "Resolve: it succeeded"),
    ("resolve", "failed"): ("resolve-failed", "Resolve: it was not done"),
    ("resolve", "compensated"): ("resolve-compensated", "Resolve: it is undone"),
}
"""Of each way to settle a step its name in a form, and to people."""
BY_NAME: Final = {name: way for way, (name, _) in TITLES.items()}
UNDONE: Final = frozenset(
    {
        StepState.SUCCEEDED,
        StepState.UNKNOWN,
        StepState.COMPENSATING,
        StepState.COMPENSATED,
        StepState.COMPENSATION_FAILED,
    }
)
"""Steps that an undoing has to do with: it did them, or may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A step as the page has it."""

    row: StepRow
    kind: str
    needs: Sequence[str]
    path: str
    undo: str | None  # the call that undoes it
    undo_no: int | None  # its place when the saga is undone, from 1
    offers: Sequence[tuple[str, str]]


def add(made: APIRouter, console: Console) -> None:
    """The routes of one saga, below those of the list."""

    async def part(request: Request, saga_id: UUID) -> live.Part:
        who = who_of(request)
        saga, rows = await acts.find(console.broker, who, saga_id)
        known = await _commands(console, who, rows)
        steps = shown(saga, rows, known, operator=OPERATE in who.scopes)
        html = console.render(
            "saga_part.html",
            saga=saga,
            steps=steps,
            drawing=drawing_of(saga.plan),
            by_id={one.row.step: one for one in steps},
            undone=undoing(steps),
            csrf=request.scope["console.session"].csrf,
        )
        return live.Part(html=html, shows=[saga_id, *known])

    @made.get("/{saga_id}")
    async def saga(request: Request, saga_id: UUID) -> Response:
        """The page."""
        who = who_of(request)
        found, _ = await acts.find(console.broker, who, saga_id)
        first = await part(request, saga_id)
        may_stop = CALL in who.scopes and found.state in {State.RUNNING, State.STOPPING}
        may_commit = may_stop and found.kind == "adhoc" and not found.closed
        return console.page(
            request,
            "saga.html",
            saga=found,
            part=first,
            may_stop=may_stop,
            may_commit=may_commit,
        )

    @made.get("/{saga_id}/live")
    async def followed(request: Request, saga_id: UUID) -> Response:
        """The saga, whenever it has moved."""
        await acts.find(console.broker, who_of(request), saga_id)
        return await live.stream(console, request, lambda: part(request, saga_id))

    @made.post("/{saga_id}/preview")
    async def preview(request: Request, saga_id: UUID) -> Response:
        """What a verb would do; nothing is done."""
        who = who_of(request)
        form = await form_of(request)
        saga, rows = await acts.find(console.broker, who, saga_id)
        known = await _commands(console, who, rows)
        steps = shown(saga, rows, known, operator=OPERATE in who.scopes)
        told = _previewed(who, saga, steps, form)
        return console.page(request, "saga_preview.html", saga=saga, form=form, **told)

    @made.post("/{saga_id}/act")
    async def act(request: Request, saga_id: UUID) -> Response:
        """Do it."""
        who = who_of(request)
        form = await form_of(request)
        await _act(console, who, saga_id, form)
        return RedirectResponse(f"{BASE}/sagas/{saga_id}", status_code=303)


async def _commands(
    console: Console, who: Identity, rows: Sequence[StepRow]
) -> dict[UUID, Command]:
    """The calls of its steps."""
    ids = [one for row in rows for one in (row.command_id, row.undo_id) if one is not None]
    async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
        return {one.id: one for one in await commands.find_many(conn, ids)}


def shown(
    saga: SagaRow,
    rows: Sequence[StepRow],
    known: Mapping[UUID, Command],
    *,
    operator: bool,
) -> list[Shown]:
    """Each step, with what its plan says of it."""
    plan = {one["id"]: one for one in (saga.plan or {}).get("steps", ())}
    undoes = {row.step: _undo(row, plan.get(row.step, {})) for row in rows}
    done = [row for row in rows if row.state in UNDONE and undoes[row.step] is not None]
    done.sort(key=lambda row: row.done_seq or 0, reverse=True)
    numbers = {row.step: number for number, row in enumerate(done, 1)}
    gone = saga.state is State.COMPLETED
    return [
        Shown(
            row=row,
            kind=plan.get(row.step, {}).get("kind", ""),
            needs=plan.get(row.step, {}).get("needs", ()),
            path=_path(plan.get(row.step)) or _made(row, known),
            undo=undoes[row.step],
            undo_no=None if gone else numbers.get(row.step),
            offers=[TITLES[way] for way in runs.offers(saga, row)] if operator else (),
        )
        for row in rows
    ]


def undoing(steps: Sequence[Shown]) -> list[Shown]:
    """Those that are undone, or were, or would be, in that order."""
    found = [one for one in steps if one.undo_no is not None]
    return sorted(found, key=lambda one: one.undo_no or 0)


def drawing_of(plan: Mapping[str, Any] | None) -> dag.Drawing | None:
    """The graph of a plan's steps; an ad hoc saga has none."""
    if plan is None:
        return None
    return dag.draw({one["id"]: one["needs"] for one in plan["steps"]})


def _undo(row: StepRow, plan: Mapping[str, Any]) -> str | None:
    return _path(row.compensation) or _path(plan.get("compensate"))


def _path(call: Mapping[str, Any] | None) -> str | None:
    return None if call is None else f"{call.get('tool')}/{call.get('method')}"


def _made(row: StepRow, known: Mapping[UUID, Command]) -> str:
    command = None if row.command_id is None else known.get(row.command_id)
    return "" if command is None else f"{command.tool}/{command.method}"


def _previewed(who: Identity, saga: SagaRow, steps: Sequence[Shown], form: Form) -> dict[str, Any]:
    """The words and lists of a preview.

    Raises:
        BadRequestError, NotCancellableError: there is no such verb, or not now.
        ForbiddenError: it is an operator's.
    """
    verb = form.get("verb")
    if verb in {"cancel", "commit"}:
        need(who, CALL)
        title = "Undo this saga" if verb == "cancel" else "Commit this saga"
        undone = undoing(steps) if verb == "cancel" else []
        return {"verb": verb, "title": title, "step": None, "led": None, "undone": undone}
    way = _way(verb)
    need(who, OPERATE)
    one = next((one for one in steps if one.row.step == form.get("step")), None)
    if one is None or TITLES[way] not in one.offers:
        raise NotCancellableError(f"Saga {saga.id} does not wait for that any more.")
    led = runs.led_to(saga, [each.row for each in steps], one.row, *way)
    return {"verb": verb, "title": TITLES[way][1], "step": one, "led": led, "undone": []}


def _way(verb: str) -> tuple[runs.Verb, runs.Outcome | None]:
    way = BY_NAME.get(verb)
    if way is None:
        raise BadRequestError("Choose what to do.")
    return way


async def _act(console: Console, who: Identity, saga_id: UUID, form: Form) -> None:
    broker, verb = console.broker, form.get("verb")
    if verb == "commit":
        need(who, CALL)
        await acts.commit(broker, who, saga_id)
        return
    reason = form.reason()
    if verb == "cancel":
        need(who, CALL)
        await acts.stop(broker, who, saga_id, reason=reason)
        return
    way, outcome = _way(verb)
    need(who, OPERATE)
    await acts.settle(
        broker, who, saga_id, step=form.get("step"), verb=way, outcome=outcome, reason=reason
    )
