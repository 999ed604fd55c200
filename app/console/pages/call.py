"""A call: what was asked, where it stands, what happened to it, and its end by hand."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from app.audit.store import events
from app.commands.state import State
from app.commands.store import places, progress
from app.commands.store.commands import Command
from app.commands.store.places import OfKey
from app.commands.view import waiting_for
from app.console import live, shown
from app.console.parts import BASE, Console, form_of, who_of
from app.contract import Priority
from app.edges import commands as acts
from app.edges.auth.scopes import AUDIT, CALL, OPERATE, need
from app.identity import Identity
from app.postgres.engine import tenant_transaction

LOG_MAX: Final = 500
WHAT: Final[Mapping[str, str]] = {
    "command.accepted": "Accepted",
    "command.dispatched": "Published",
    "command.claimed": "Claimed",
    "command.ended": "Ended",
    "command.succeeded": "Succeeded",
    "command.failed": "Failed",
    "command.cancelled": "Cancelled",
    "command.timed_out": "Timed out",
    "command.dead_lettered": "Given up: a dead letter",
    "command.retry": "Queued again, after a failed attempt",
    "command.redeliver": "Sent again: nobody had claimed it",
    "command.redrive": "Redriven by an operator",
    "command.cancel_requested": "Asked to stop",
    "command.deadline_missed": "Deadline missed",
    "command.approved": "Approved",
    "approval.counted": "Approved by one of several",
    "approval.escalated": "More may approve",
    "approval.refused": "A decision that does not count",
    "command.denied": "Denied",
    "command.discarded": "Discarded",
    "command.resolved": "Outcome resolved",
    "claim.refused": "A claim was refused",
    "result.late": "A late result was not taken",
}
GOOD: Final = {State.SUCCEEDED}
BAD: Final = {State.FAILED, State.TIMED_OUT, State.DEAD_LETTERED, State.CANCELLED}


def add(made: APIRouter, console: Console) -> None:
    """The routes of one call, below those of the list."""

    async def part(request: Request, call_id: UUID) -> live.Part:
        who = who_of(request)
        command = await acts.find(console.broker, who, call_id)
        html = console.render("call_part.html", **await _read(console, who, command))
        return live.Part(html=html, shows=[command.id])

    @made.get("/{call_id}")
    async def call(request: Request, call_id: UUID) -> Response:
        """The page."""
        who = who_of(request)
        command = await acts.find(console.broker, who, call_id)
        first = await part(request, call_id)
        may_cancel = CALL in who.scopes and not command.final
        return console.page(
            request, "call.html", command=command, part=first, may_cancel=may_cancel
        )

    @made.get("/{call_id}/live")
    async def followed(request: Request, call_id: UUID) -> Response:
        """The call, whenever it has moved."""
        await acts.find(console.broker, who_of(request), call_id)
        return await live.stream(console, request, lambda: part(request, call_id))

    @made.post("/{call_id}/cancel")
    async def cancel(request: Request, call_id: UUID) -> Response:
        """Cancel it, or ask its adapter to stop."""
        who = who_of(request)
        need(who, CALL)
        form = await form_of(request)
        await acts.cancel(console.broker, who, call_id, reason=form.reason())
        return RedirectResponse(f"{BASE}/calls/{call_id}", status_code=303)


async def _read(console: Console, who: Identity, command: Command) -> dict[str, Any]:
    """What the page shows of it."""
    broker = console.broker
    told = bool({OPERATE, AUDIT} & who.scopes)
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        story = await events.story(conn, command.id) if told else []
        log = await progress.after(conn, command.id, seq=0, limit=LOG_MAX)
        queued = command.state is State.QUEUED
        of_key = await places.of_key(conn, command) if queued and command.held else None
        ahead = await places.in_lane(conn, command) if queued and not command.held else 0
    run = command.run or {}
    return {
        "command": command,
        "arguments": await shown.arguments(broker.catalog, command),
        "priority": Priority(command.priority).wire,
        "waits": _waits(command, of_key, ahead),
        "of_key": of_key,
        "moments": _moments(story) if told else _own_moments(command),
        "log": log,
        "told": shown.told(command),
        "seconds": shown.seconds(command),
        "run": run,
        "run_link": shown.link(run.get("link")),
        "output": shown.output(command),
        "trace": _trace(console, command),
    }


def _waits(command: Command, of_key: OfKey | None, ahead: int) -> str | None:
    """What it waits for, with its place in line."""
    waits = waiting_for(command)
    if waits is None or command.state is not State.QUEUED or command.awaits_approval:
        return waits
    if of_key is not None:
        if of_key.blocked_reason is not None:
            return f"{waits}, which an operator has to settle first: {of_key.blocked_reason}"
        return f"{waits}; {_many(of_key.ahead)} wait before it" if of_key.ahead else waits
    return f"{waits}; {_many(ahead)} of its tool are sent before it" if ahead else waits


def _many(count: int) -> str:
    return f"{count} or more" if count >= places.COUNT_MAX else str(count)


def _moments(story: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The timeline, from the audit trail."""
    return [
        {
            "at": one["at"],
            "what": WHAT.get(one["what"], one["what"]),
            "kind": one["what"],
            "by": one["actor"],
            "attempt": one["attempt"],
            "state": one["state_to"] if one["state_to"] != one["state_from"] else None,
            "tone": _tone(one["state_to"]),
            "more": _more(one["body"]),
            "body": one["body"],
        }
        for one in story
    ]


def _more(body: Any) -> str:
    """The line below a moment: where it was published, by which run, why."""
    if not isinstance(body, dict):
        return ""
    if "partition" in body:
        return f"{body.get('topic')}, partition {body['partition']}, offset {body.get('offset')}"
    error = body.get("error")
    said: list[Any] = [body.get("adapter") or body.get("run"), body.get("reason")]
    if isinstance(error, dict):
        said += [error.get("code"), error.get("message")]
    if body.get("ordering_key"):
        said.append(f"ordering key {body['ordering_key']}")
    if body.get("approval"):
        said.append(f"approval {body['approval']}")
    return ", ".join(str(one) for one in said if one)


def _tone(state: str | None) -> str:
    if state in {str(one) for one in GOOD}:
        return "good"
    return "bad" if state in {str(one) for one in BAD} else ""


def _own_moments(command: Command) -> list[dict[str, Any]]:
    """The timeline of who may not read the audit trail: the times of its own call."""
    times = (
        ("Accepted", command.created_at, None),
        ("Published", command.dispatched_at, None),
        ("Claimed", command.started_at, None),
        ("Asked to stop", command.cancel_requested_at, None),
        ("Ended", command.finished_at, str(command.state)),
    )
    return [
        {
            "at": at,
            "what": what,
            "kind": "",
            "by": "",
            "attempt": None,
            "state": state,
            "tone": _tone(state),
            "more": "",
            "body": None,
        }
        for what, at, state in times
        if at is not None
    ]


def _trace(console: Console, command: Command) -> dict[str, str | None] | None:
    """Its trace's id, and where to see it."""
    if command.traceparent is None:
        return None
    trace_id = command.traceparent.split("-")[1]
    pattern = console.broker.settings.console_trace_url
    url = None if pattern is None else shown.link(pattern.replace("{trace_id}", trace_id))
    return {"id": trace_id, "url": url}
