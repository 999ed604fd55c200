"""Holds: a person places and releases them, each with a preview of what it touches and a reason."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.responses import RedirectResponse

from app.commands.store import holds as hold_rows
from app.commands.store.holds import Hold
from app.console.forms import Form
from app.console.lists import tool_of
from app.console.parts import BASE, Console, form_of, who_of
from app.edges import holds as acts
from app.edges.auth.scopes import OPERATE, need
from app.edges.bodies import parsed
from app.edges.failures import invalid
from app.edges.holds import Wanted, shown
from app.errors import BadRequestError, BrokerError, NotFoundError
from app.json_values import PlainText
from app.postgres.engine import tenant_transaction

FIELDS: Final = ("tool", "key", "path", "value", "as_json", "all_calls", "effect", "until")
BLANK: Final[Mapping[str, str]] = dict.fromkeys(FIELDS, "") | {"effect": "wait"}
WAITING_MAX: Final = 1000
INSTANT_CHARS_MAX: Final = 40


def add(made: APIRouter, console: Console) -> None:
    """The routes of holds, below the page of tools."""

    @made.get("/hold")
    async def form(request: Request, tool: PlainText = "") -> Response:
        """The form of a new hold."""
        need(who_of(request), OPERATE)
        return await _form(console, request, {**BLANK, "tool": tool})

    @made.post("/hold/preview")
    async def preview(request: Request) -> Response:
        """What a hold would be of; nothing is held yet."""
        who = who_of(request)
        need(who, OPERATE)
        sent = await form_of(request)
        asked = {name: sent.get(name) for name in FIELDS}
        try:
            wanted = wanted_of(sent)
            queued, in_flight = await acts.preview(console.broker, who, wanted)
        except BrokerError as error:
            if error.status >= 500:  # noqa: PLR2004
                raise
            return await _form(console, request, asked, error=error)
        return console.page(
            request,
            "hold_preview.html",
            asked=asked,
            wanted=wanted,
            queued=_many(queued, hold_rows.COUNT_MAX),
            in_flight=_many(in_flight, hold_rows.COUNT_MAX),
        )

    @made.post("/hold")
    async def place(request: Request) -> Response:
        """Place it: in force when this answers."""
        who = who_of(request)
        need(who, OPERATE)
        sent = await form_of(request)
        reason = sent.reason()
        placed = await acts.place(console.broker, who, wanted_of(sent), reason=reason)
        return console.page(
            request,
            "hold_placed.html",
            hold=described(placed.hold),
            queued=_many(placed.queued, hold_rows.COUNT_MAX),
            in_flight=_many(placed.in_flight, hold_rows.COUNT_MAX),
            leaving=placed.leaving,
        )

    _add_release(made, console)


def _add_release(made: APIRouter, console: Console) -> None:
    @made.post("/holds/{hold_id}/preview")
    async def ending(request: Request, hold_id: UUID) -> Response:
        """What goes on when a hold is released; nothing is released yet."""
        who = who_of(request)
        need(who, OPERATE)
        await form_of(request)
        async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
            found = await hold_rows.find(conn, hold_id, tenant_id=who.tenant_id)
            count = await hold_rows.waiting(conn, hold_id, most=WAITING_MAX)
        if found is None:
            raise NotFoundError(f"You have no hold {hold_id} in force; somebody may have ended it.")
        return console.page(
            request, "hold_release.html", hold=described(found), waiting=_many(count, WAITING_MAX)
        )

    @made.post("/holds/{hold_id}/release")
    async def release(request: Request, hold_id: UUID) -> Response:
        """Release it."""
        who = who_of(request)
        need(who, OPERATE)
        sent = await form_of(request)
        await acts.release(console.broker, who, hold_id, reason=sent.reason())
        return RedirectResponse(f"{BASE}/tools", status_code=303)


async def _form(
    console: Console,
    request: Request,
    asked: Mapping[str, str],
    *,
    error: BrokerError | None = None,
) -> Response:
    visible = (await console.broker.catalog.visible(who_of(request))).tools
    return console.page(
        request,
        "hold.html",
        status=200 if error is None else error.status,
        asked=asked,
        error=error,
        paths=sorted({one.tool for one in visible} | {one.path for one in visible}),
    )


def wanted_of(form: Form) -> Wanted:
    """The hold that a form describes.

    Raises:
        BadRequestError: it describes none.
    """
    tool, method = tool_of(form.get("tool").strip())
    given: dict[str, Any] = {
        "tool": tool,
        "method": method,
        "ordering_key": form.get("key") or None,
        "all_calls": form.get("all_calls") == "on",
        "effect": form.get("effect"),
        "until": _until(form.get("until").strip()),
    }
    path, value = form.get("path").strip(), form.get("value")
    if path or value:
        as_json = form.get("as_json") == "on"
        given["argument"] = {"path": path, "value": parsed(value.encode()) if as_json else value}
    try:
        return Wanted.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from error


def _until(text: str) -> str | None:
    """The end of a hold, as the wire has it; without a zone it is UTC's."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text[:INSTANT_CHARS_MAX])
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequestError("The end is no time; leave it out, or say when, in UTC.") from error
    return at.isoformat()


def described(hold: Hold) -> dict[str, Any]:
    """A hold as the pages show it."""
    names = ("tool", "method", "ordering_key", "argument")
    return dict.fromkeys(names) | shown(hold) | {"at": hold.placed_at, "ends": hold.until}


def _many(count: int, most: int) -> str:
    return f"{most} or more" if count >= most else str(count)
