"""Following a call for as long as its request waits: its progress, then its end.

The wait belongs to the request; the command goes on without it.
"""

from typing import Final

import anyio
from mcp import types
from mcp.shared.exceptions import MCPError

from app.commands.store.commands import Command
from app.commands.watch import Subscription
from app.edges.calls import Accepted
from app.edges.commands import cancel, find
from app.edges.mcp.calls import Context
from app.edges.mcp.replies import (
    JustWritten,
    Standing,
    accepted_reply,
    line_of,
    outcome_reply,
    protocol_error,
)
from app.edges.parts import Parts
from app.identity import Identity

SILENCE_S: Final = 0.5
"""Progress is coalesced to at most one notification in this time."""

PERCENT_MAX: Final = 99.0
"""The highest progress that is taken from an adapter's percent; what is above is for heartbeats."""


async def wait(
    broker: Parts, ctx: Context, who: Identity, accepted: Accepted
) -> types.CallToolResult:
    """Stream progress until the end or the end of the wait."""
    ended = newest = None
    if accepted.wait_s > 0:  # a watch has the command read
        ended, newest = await _watched(broker, ctx, who, accepted)
    if ended is None:
        stands = await _standing(broker, who, accepted, newest)
        if isinstance(stands, JustWritten) or not stands.final:
            return accepted_reply(stands, accepted)
        ended = stands  # before it was called again
    broken = protocol_error(ended)
    if broken is not None:
        raise MCPError.from_error_data(broken)
    return await outcome_reply(broker, ended, accepted)


async def _watched(
    broker: Parts, ctx: Context, who: Identity, accepted: Accepted
) -> tuple[Command | None, Command | None]:
    """The command's end, if the wait saw it, and the newest that the wait saw."""
    try:
        with broker.feed.watch(who.tenant_id, accepted.written.id) as watch:
            return await _follow(broker, ctx, watch, accepted.wait_s), watch.newest
    except anyio.get_cancelled_exc_class():
        if accepted.tool.policy.on_disconnect == "cancel":
            with anyio.CancelScope(shield=True):
                await cancel(broker, who, accepted.written.id, reason="The caller gave up.")
        raise


async def _standing(
    broker: Parts, who: Identity, accepted: Accepted, newest: Command | None
) -> Standing:
    """Where a call stands whose end was not seen, by what is known here; else it is read."""
    written = accepted.written
    if newest is None and written.new:
        return JustWritten(id=written.id, deadline_at=written.deadline_at)
    return newest or await find(broker, who, written.id)


async def _follow(
    broker: Parts, ctx: Context, watch: Subscription, wait_s: float
) -> Command | None:
    """Report progress as it comes; a heartbeat where none does. Numbers strictly increase."""
    now = anyio.current_time()
    until, reported_at, reported = now + wait_s, now - SILENCE_S, -0.1
    newest: Command | None = None
    pending, reported_seq = False, 0
    while now < until:
        due = reported_at + (SILENCE_S if pending else broker.settings.heartbeat_s)
        if now >= due:
            reported = above(reported, newest)
            await ctx.session.report_progress(reported, 100.0, message_of(newest))
            reported_at, pending = now, False
            reported_seq = 0 if newest is None else newest.progress_seq
        else:
            change = await watch.change(min(due, until) - now)
            if change is not None and change.final:
                if change.progress_seq > reported_seq:
                    # The last report was held back, or came with the end: it is still sent.
                    reported = above(reported, change)
                    await ctx.session.report_progress(reported, 100.0, message_of(change))
                return change
            if change is not None:
                newest, pending = change, True
        now = anyio.current_time()
    return None


def above(reported: float, command: Command | None) -> float:
    """The next number: the adapter's percent; where it gives none, or no more, a little more."""
    percent = 0.0 if command is None else command.percent or 0.0
    return max(reported + (100 - reported) / 1000, min(percent, PERCENT_MAX))


def message_of(command: Command | None) -> str | None:
    """A short line for a person: stage and message."""
    if command is None:
        return "still running"
    return line_of(command.stage, command.message) or str(command.state)
