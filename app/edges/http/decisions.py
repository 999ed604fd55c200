"""Plain HTTP for who approves: what waits for a decision of theirs, and their yes or no."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.catalog.redaction import redact
from app.commands.store.commands import Command
from app.commands.view import view
from app.edges.commands import decidable, decide, to_decide
from app.edges.http.replies import ReasonBody, identity_of, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts


def router(broker: Parts) -> APIRouter:
    """The routes of approvers: operators, or members of the groups that a tool's policy names."""
    made = APIRouter(route_class=StrictRoute)

    @made.get("/approvals")
    async def approvals(
        request: Request,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """Calls that wait for an approval which the asking person may give, newest first."""
        found = await to_decide(broker, identity_of(request), before=before, limit=limit)
        more = str(found[-1].id) if len(found) == limit else None
        waiting = [await _asked(broker, one) for one in found]
        return reply(200, {"approvals": waiting, "before": more})

    async def decided(
        request: Request, command_id: UUID, body: ReasonBody, *, approve: bool
    ) -> Response:
        who = identity_of(request)
        found = await decidable(broker, who, command_id)
        change = await decide(broker, who, found, approve=approve, reason=body.reason)
        return reply(200, view(change.command))

    @made.post("/commands/{command_id}/approve")
    @made.post("/operator/commands/{command_id}/approve")
    async def approve(request: Request, command_id: UUID, body: ReasonBody) -> Response:
        """Approve a command that waits for it: it goes once enough persons have."""
        return await decided(request, command_id, body, approve=True)

    @made.post("/commands/{command_id}/deny")
    @made.post("/operator/commands/{command_id}/deny")
    async def deny(request: Request, command_id: UUID, body: ReasonBody) -> Response:
        """End a command that waits for an approval; for those who may approve it."""
        return await decided(request, command_id, body, approve=False)

    return made


async def _asked(broker: Parts, command: Command) -> dict[str, Any]:
    """A call as those see it who decide about it: who asks, and for what, as redacted."""
    tool = await broker.catalog.tool(command.tool, command.method)
    shown: dict[str, Any] = view(command) | {
        "user": command.user_id,
        "args": None if tool is None else redact(command.args or {}, tool.input_schema),
    }
    for name in ("idempotency_key", "message", "stage", "run"):  # its caller's own
        shown.pop(name, None)
    return shown
